//! What becomes of a connection, and the counters of it: one list, for the programs, the status and the metrics.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// What became of a connection, or of a DNS answer. The number is the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Outcome {
            /// Every outcome, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written in status and metrics.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

outcomes! {
    /// Led to the door.
    Redirected = "redirected",
    /// The port is none of those that are redirected; not counted.
    OtherPort = "other_port",
    /// The address is not known to be a registry's.
    NotListed = "not_listed",
    /// entrepot's own connection.
    Own = "own",
    /// The process lives in another network namespace, from where the door cannot be reached.
    OtherNamespace = "other_namespace",
    /// The door or the agent does not answer, so connections go where they meant to.
    Unhealthy = "unhealthy",
    /// The door has no address of this family.
    NoDoor = "no_door",
    /// Nothing listens at the local door.
    NoListener = "no_listener",
    /// A map of the kernel was full, or a call failed.
    Failed = "failed",
    /// An address was learned from a DNS answer.
    Learned = "learned",
    /// A DNS answer about a listed name that could not be read to its end.
    DnsUnread = "dns_unread",
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
