//! `entrepot client setup`, in this order: it finds the appliance, checks its certificate, asks for consent, and pulls
//! a manifest. Then it makes the change and pulls again.

use std::io::{self, BufRead, IsTerminal};

use nix::sys::stat::{Mode as FileMode, umask};

use super::{CameOfIt, ClientError, SetupOptions, require_root, run_command, tell};
use entrepot_setup::client::appliance::{Appliance, ask, find};
use entrepot_setup::client::execute::apply;
use entrepot_setup::client::host::Host;
use entrepot_setup::client::journal::{Journal, before};
use entrepot_setup::client::plan::Plan;
use entrepot_setup::client::steps::shown;
use entrepot_setup::client::target::Target;
use entrepot_setup::client::verify::{Image, Trust, Verdict, verify};
use entrepot_setup::client::{Mode, Runtime, runtimes};
use entrepot_setup::discovery::facts::normal_fingerprint;

/// Sets up one runtime. If a step fails, the machine stays as it was before: without a set-up, or with the earlier one.
pub(super) async fn set_up(options: &SetupOptions, host: &Host) -> Result<(), ClientError> {
    let expected = options.ca_sha256.as_deref().map(fingerprint).transpose()?;
    let image = Image::parse(&options.verify_image).ok_or_else(|| ClientError::Image(options.verify_image.clone()))?;
    if !options.dry_run {
        require_root()?;
    }
    let (name, proxy) = find(options.appliance.as_deref())?;
    let appliance = ask(name, proxy).await?;
    match &expected {
        Some(expected) => appliance.expect(expected)?,
        None if options.dry_run => println!("the appliance's CA has SHA-256 {}", appliance.ca.sha256),
        None => confirm(&appliance)?,
    }
    let target = target(options, &appliance);
    let journals = Journal::all(host)?;
    let (mine, others): (Vec<Journal>, Vec<Journal>) =
        journals.into_iter().partition(|journal| journal.runtime == options.runtime);
    let nodes = if options.runtime == Runtime::Kind { kind_nodes() } else { Vec::new() };
    let as_it_was = host.before(before(&mine));
    let plan = runtimes::plan(options.runtime, options.mode, &as_it_was, &target, &nodes)?;
    if options.dry_run {
        show(&plan);
        return Ok(());
    }
    // In redirect mode a pull cannot succeed yet: it is led to the appliance, whose certificate is not trusted here.
    if !options.no_verify && options.mode != Mode::Redirect {
        let verdict = verify((options.runtime, options.mode), &appliance, &target, &image, Trust::Appliance).await?;
        if let Some(reason) = failure(verdict) {
            let came_of_it = CameOfIt::Unchanged;
            return Err(ClientError::Unverified { proxy: appliance.proxy, reason, came_of_it });
        }
    }
    // Every program of this machine may read the new files.
    umask(FileMode::S_IWGRP | FileMode::S_IWOTH);
    println!("setting up {} with {} ({})", options.runtime.word(), target.host, options.mode.word());
    let journal = Journal::new(options.runtime, options.mode, &target.host, target.proxy_port, &appliance.ca.sha256);
    let change = apply(host, &plan, journal, mine.first(), &others, &mut run_command, &mut tell)?;
    if !options.no_verify && options.runtime != Runtime::Kind {
        let verdict = verify((options.runtime, options.mode), &appliance, &target, &image, Trust::Machine).await;
        let verdict = verdict.unwrap_or_else(|error| Verdict::Failed(error.to_string()));
        if let Err(reason) = works(options.mode, verdict, &appliance, &image) {
            let came_of_it = match change {
                None => CameOfIt::Stays,
                Some(change) => CameOfIt::WentBack(change.take_back(host, &mut run_command, &mut tell)),
            };
            return Err(ClientError::Unverified { proxy: appliance.proxy, reason, came_of_it });
        }
    }
    plan.notes.iter().for_each(|note| println!("note: {note}"));
    println!("back again: entrepot client undo --runtime {}", options.runtime.word());
    Ok(())
}

fn fingerprint(text: &str) -> Result<String, ClientError> {
    normal_fingerprint(text).ok_or_else(|| ClientError::Fingerprint(text.to_owned()))
}

fn target(options: &SetupOptions, appliance: &Appliance) -> Target {
    Target {
        host: appliance.host_for(options.runtime),
        // This is the port at which the appliance was reached. The appliance does not know of a mapped port.
        proxy_port: appliance.proxy.port(),
        registry_http_port: appliance.facts.registry_http_port,
        registry_https_port: appliance.facts.registry_https_port,
        docker_mirror_port: appliance.facts.docker_mirror_port,
        ca_pem: appliance.ca.pem.clone(),
        ca_sha256: appliance.ca.sha256.clone(),
        registries: options.registry.clone(),
    }
}

fn confirm(appliance: &Appliance) -> Result<(), ClientError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(ClientError::Unconfirmed(appliance.ca.sha256.clone()));
    }
    eprintln!("{} has a CA certificate with SHA-256", appliance.proxy);
    eprintln!("  {}", appliance.ca.sha256);
    eprint!("The appliance's console shows the same? This machine will trust it for every name. [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(ClientError::Declined) }
}

/// The reason why pulls do not go through the appliance. None if they do.
fn failure(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Pulled | Verdict::Answered(_) => None,
        Verdict::Bypassed => Some("the answer came by another way".to_owned()),
        Verdict::Failed(reason) => Some(reason),
    }
}

/// Prints the result of the pull after the set-up. The error is the reason why pulls do not go through the appliance.
fn works(mode: Mode, verdict: Verdict, appliance: &Appliance, image: &Image) -> Result<(), String> {
    let proxy = appliance.proxy;
    match &verdict {
        Verdict::Pulled => println!("  pulled    the manifest of {image} through {proxy}"),
        Verdict::Answered(status) => {
            println!("  asked     for {image} through {proxy}; the answer was {status}")
        }
        Verdict::Bypassed | Verdict::Failed(_) => {}
    }
    match (failure(verdict), mode) {
        (None, _) => Ok(()),
        // Trust comes before the redirect: no connection goes to the appliance until the redirect is there.
        (Some(reason), Mode::Redirect) => {
            println!(
                "note: no connection of this machine is led to {proxy} yet ({reason}); `entrepot redirect host --appliance {}` \
                 here does that, or `entrepot redirect gateway` on the machine that this one's connections pass",
                appliance.host
            );
            Ok(())
        }
        (Some(reason), _) => Err(reason),
    }
}

fn show(plan: &Plan) {
    for file in &plan.files {
        println!("would write {}:", file.path);
        String::from_utf8_lossy(&file.content).lines().for_each(|line| println!("    {line}"));
    }
    for command in &plan.commands {
        println!("would run   {}", shown(command));
    }
    plan.notes.iter().for_each(|note| println!("note: {note}"));
}

/// The containers of Kind's clusters. Empty if Docker is not installed here.
fn kind_nodes() -> Vec<String> {
    let listed = std::process::Command::new("docker")
        .args(["ps", "--filter", "label=io.x-k8s.kind.cluster", "--format", "{{.Names}}"])
        .output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    text.lines().map(str::trim).filter(|name| !name.is_empty()).filter(plain).map(str::to_owned).collect()
}
