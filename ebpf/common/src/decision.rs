//! Decides whether a new connection is redirected to the door: one pure function of the settings and some look-ups.

use crate::address::{Address, Endpoint};
use crate::outcome::Outcome;
use crate::settings::Settings;

/// The look-ups about the surroundings of a connection. Each is made only if the decision depends on it.
pub trait Surroundings {
    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;
    /// The time until which the door counts as healthy.
    fn healthy_until_ns(&self) -> u64;
    /// The time until which the address belongs to a listed registry; zero if it does not.
    fn listed_until_ns(&self, address: &Address) -> u64;
    /// The time until which connections to the address are let pass; zero if they are not.
    fn direct_until_ns(&self, address: &Address) -> u64;
    /// Whether the connection is entrepot's own.
    fn is_own(&self, settings: &Settings) -> bool;
    /// Whether the connection belongs to the agent's network namespace.
    fn is_in_namespace(&self, settings: &Settings) -> bool;
    /// Whether something listens at the local door.
    fn door_listens(&self, door: &Endpoint) -> bool;
}

/// The time of an address that is listed for good.
pub const FOR_EVER: u64 = u64::MAX;

/// Decides about a connection to `destination`. Cheap and frequent reasons against a redirection come first.
#[inline(always)]
pub fn decide(settings: &Settings, destination: &Endpoint, surroundings: &impl Surroundings) -> Outcome {
    if !settings.has_port(destination.port) {
        return Outcome::OtherPort;
    }
    let listed_until_ns = surroundings.listed_until_ns(&destination.address);
    if listed_until_ns == 0 {
        return Outcome::NotListed;
    }
    let now_ns = surroundings.now_ns();
    if listed_until_ns < now_ns {
        return Outcome::NotListed;
    }
    if surroundings.is_own(settings) {
        return Outcome::Own;
    }
    if !surroundings.is_in_namespace(settings) {
        return Outcome::OtherNamespace;
    }
    let door = settings.door_for(&destination.address);
    if !door.exists() {
        return Outcome::NoDoor;
    }
    if settings.enforce != 0 {
        return Outcome::Redirected;
    }
    if surroundings.direct_until_ns(&destination.address) >= now_ns {
        return Outcome::Direct;
    }
    if surroundings.healthy_until_ns() < now_ns {
        return Outcome::Unhealthy;
    }
    if settings.is_local != 0 && !surroundings.door_listens(door) {
        return Outcome::NoListener;
    }
    Outcome::Redirected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::mapped;
    use crate::proof::Proofs;
    use crate::settings::PORTS_MAX;

    struct Table {
        healthy_until_ns: u64,
        listed_until_ns: u64,
        direct_until_ns: u64,
        own: bool,
        in_namespace: bool,
        listens: bool,
    }

    impl Surroundings for Table {
        fn now_ns(&self) -> u64 {
            1000
        }
        fn healthy_until_ns(&self) -> u64 {
            self.healthy_until_ns
        }
        fn listed_until_ns(&self, _: &Address) -> u64 {
            self.listed_until_ns
        }
        fn direct_until_ns(&self, _: &Address) -> u64 {
            self.direct_until_ns
        }
        fn is_own(&self, _: &Settings) -> bool {
            self.own
        }
        fn is_in_namespace(&self, _: &Settings) -> bool {
            self.in_namespace
        }
        fn door_listens(&self, _: &Endpoint) -> bool {
            self.listens
        }
    }

    const GOOD: Table = Table {
        healthy_until_ns: 1500,
        listed_until_ns: 2000,
        direct_until_ns: 0,
        own: false,
        in_namespace: true,
        listens: true,
    };

    fn settings() -> Settings {
        let mut ports = [0; PORTS_MAX];
        ports[0] = 443;
        let door_v4 = Endpoint::new(mapped([127, 0, 0, 1]), 3129);
        Settings {
            netns_cookie: 0,
            door_v4,
            door_v6: Endpoint::NONE,
            proofs: Proofs::NONE,
            own_mark: 1,
            route_mark: 2,
            ports,
            is_local: 1,
            enforce: 0,
        }
    }

    #[test]
    fn each_reason_is_said() {
        let v4 = Endpoint::new(mapped([192, 0, 2, 1]), 443);
        let v6 = Endpoint::new([0x20; 16], 443);
        let cases = [
            (GOOD, v4, Outcome::Redirected),
            (GOOD, Endpoint::new(v4.address, 80), Outcome::OtherPort),
            (GOOD, Endpoint::new(v4.address, 0), Outcome::OtherPort),
            (GOOD, v6, Outcome::NoDoor),
            (Table { listed_until_ns: 0, ..GOOD }, v4, Outcome::NotListed),
            (Table { listed_until_ns: 999, ..GOOD }, v4, Outcome::NotListed),
            (Table { listed_until_ns: FOR_EVER, ..GOOD }, v4, Outcome::Redirected),
            (Table { own: true, ..GOOD }, v4, Outcome::Own),
            (Table { in_namespace: false, ..GOOD }, v4, Outcome::OtherNamespace),
            (Table { direct_until_ns: 1000, ..GOOD }, v4, Outcome::Direct),
            (Table { direct_until_ns: 999, ..GOOD }, v4, Outcome::Redirected),
            (Table { healthy_until_ns: 999, ..GOOD }, v4, Outcome::Unhealthy),
            (Table { listens: false, ..GOOD }, v4, Outcome::NoListener),
        ];
        for (surroundings, destination, expected) in cases {
            assert_eq!(decide(&settings(), &destination, &surroundings), expected);
        }
    }

    #[test]
    fn a_distant_door_is_not_looked_up_and_enforcing_asks_nobody() {
        let v4 = Endpoint::new(mapped([192, 0, 2, 1]), 443);
        let distant = Settings { is_local: 0, ..settings() };
        assert_eq!(decide(&distant, &v4, &Table { listens: false, ..GOOD }), Outcome::Redirected);
        let enforcing = Settings { enforce: 1, ..settings() };
        let dead = Table { listens: false, healthy_until_ns: 0, direct_until_ns: FOR_EVER, ..GOOD };
        assert_eq!(decide(&enforcing, &v4, &dead), Outcome::Redirected);
        assert_eq!(decide(&enforcing, &v4, &Table { own: true, ..dead }), Outcome::Own, "even then no loop");
    }
}
