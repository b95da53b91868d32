# Stands in for Vagrant: reads the Vagrantfile as it does for one provider, and prints what came of it as JSON.
# Arguments: the Vagrantfile, the provider. What Vagrant's command line would be is in VAGRANT_COMMAND.
require "json"

# Takes every setting, and every setting of it.
class Anything
  def method_missing(*) = self
  def respond_to_missing?(*) = true
end

module Vagrant
  module Config
    module V2
      class DummyConfig < Anything; end
    end
  end

  class Machine < Anything
    attr_reader :networks, :provisions, :overrides

    def initialize(provider)
      @provider, @networks, @provisions, @overrides = provider, [], [], []
    end

    def vm = self
    def network(kind, **options) = @networks << options.merge(kind: kind)
    def provision(name, **options) = @provisions << options.merge(name: name)

    # Vagrant runs the block of every provider that is installed, and gives it the machine only where it is the one.
    def provider(name, &block)
      block.call(Config::V2::DummyConfig.new, Config::V2::DummyConfig.new)
      @overrides << block if name.to_s == @provider
    end
  end

  def self.configure(_version)
    yield MACHINE
    MACHINE.overrides.each { |block| block.call(Config::V2::DummyConfig.new, MACHINE) }
  end
end

file, provider = ARGV
ARGV.replace(ENV.fetch("VAGRANT_COMMAND").split)
Vagrant::MACHINE = Vagrant::Machine.new(provider)
load file
puts JSON.generate(networks: Vagrant::MACHINE.networks, provisions: Vagrant::MACHINE.provisions)
