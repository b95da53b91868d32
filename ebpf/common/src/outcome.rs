//! The outcomes of connections, each with a counter: one list for the programs, the status and the metrics.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// The outcome of a connection or of a DNS answer. The number is the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Outcome {
            /// Every outcome, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As in status and metrics.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

outcomes! {
    /// Redirected to the door.
    Redirected = "redirected",
    /// A redirected connection's client answered the door: packets arrive there, and answers arrive at clients. Counted
    /// at gateways.
    Arrived = "arrived",
    /// The port is not redirected. These connections are not counted.
    OtherPort = "other_port",
    /// The address is not known as a registry's.
    NotListed = "not_listed",
    /// entrepot's own connection.
    Own = "own",
    /// The process is in another network namespace, which cannot reach the door.
    OtherNamespace = "other_namespace",
    /// The door or the agent does not answer, so connections go to their own destination.
    Unhealthy = "unhealthy",
    /// The door has no address of this family.
    NoDoor = "no_door",
    /// Nothing listens at the local door.
    NoListener = "no_listener",
    /// A map of the kernel was full, or a helper of the kernel failed.
    Failed = "failed",
    /// The door found no name in an earlier connection to this address, which goes to its own destination for a while.
    Direct = "direct",
    /// An address was learned from a DNS answer.
    Learned = "learned",
    /// A DNS answer about a listed name that could not be read to its end.
    DnsUnread = "dns_unread",
    /// A DNS answer about a listed name from an address that is no configured resolver.
    DnsOtherResolver = "dns_other_resolver",
    /// A DNS answer about a listed name from a resolver that was not asked, or not within the last seconds.
    DnsUnasked = "dns_unasked",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_counter_and_a_word_of_its_own() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert!(Outcome::ALL[..index].iter().all(|other| other.word() != outcome.word()), "{outcome:?}");
        }
    }
}
