//! Protections that can be switched off, one by one, to see whether the simulator notices.
//!
//! Only with the feature `breakable`, which nothing but the simulator asks for. Without it [`Breaks`] is
//! empty and [`Breaks::has`] is `false` for the compiler.

macro_rules! breaks {
    ($($variant:ident, $name:literal, $doc:literal;)+) => {
        /// A protection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Break {
            $(#[doc = $doc] $variant,)+
        }

        impl Break {
            /// Every protection, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name on the command line of the simulator.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What is switched off.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $doc,)+ }
            }
        }
    };
}

breaks! {
    Purge, "purge", "A backend that returns is not rid of what it missed.";
    PurgeOfUnknown, "purge-of-unknown", "Writes that went unanswered are not remembered for the backend they went to.";
    RememberWhenSending, "remember-when-sending", "What an absent backend misses is remembered when the write is answered, not when it is sent.";
    AckWaitsForEpoch, "ack-waits-for-epoch", "A diverted write is acknowledged while other workers may still read the failed backend.";
    ConditionalsWait, "conditionals-wait", "A conditional command is sent although the workers may disagree about who decides.";
    OutcomeLock, "outcome-lock", "Later writes of a key do not wait until a conditional's outcome is stored.";
    AuthorityFirst, "authority-first", "A backend that follows is told of a write together with the authority.";
    OutcomeCopied, "outcome-copied", "What the authority decided is not copied to the follower.";
    DownSettles, "down-settles", "A backend leaves Down before every worker has stopped reading it.";
    Seniority, "seniority", "Of two backends that returned, the primary leads, although it returned later.";
    AllPurge, "all-purge", "A backend counts as purged when the first worker has done so.";
    OwnFailure, "own-failure", "A worker that sees a backend fail goes on as its View says.";
    LostConnection, "lost-connection", "A connection lost with writes unanswered is opened again in silence.";
    Pairing, "pairing", "A value is taken for the next key of a batch without looking at its key.";
    BatchBeforeWrite, "batch-before-write", "A write is sent ahead of a gathered get that was asked before it.";
    OverflowFlushes, "overflow-flushes", "A backend that missed more than can be remembered is not flushed.";
    Identity, "identity", "A new connection is used without asking who answers there.";
    Settle, "settle", "A backend that answers again is taken back although it may still execute what it was sent before.";
    AddMode, "add-mode", "The catch-up overwrites what the follower has.";
    LookBack, "look-back", "The catch-up does not look at the authority again after a copy.";
    CasGuard, "cas-guard", "The catch-up deletes a copy that is out of date whatever the follower holds by then.";
    TwoStepFlip, "two-step-flip", "A backend that has caught up is read before everyone knows that conditional commands wait.";
    FlipAgain, "flip-again", "A backend is read although a key went back to the catch-up meanwhile.";
    DeleteNotRepeat, "delete-not-repeat", "A follower that is catching up is told to repeat append and incr.";
    FollowerMiss, "follower-miss", "A follower's miss is the answer to a hedged read.";
    Takeover, "takeover", "A backend that is catching up leads with copies that were not looked at again.";
    OneWriter, "one-writer", "Workers write one key at the same time.";
    StateFile, "state-file", "A proxy that starts again takes every backend to be in step.";
    CasMark, "cas-mark", "A CAS unique of one backend is taken for one of another.";
    ReadRepeats, "read-repeats", "A read whose backend fails is a miss.";
    ReadPlace, "read-place", "A read that is asked again waits behind the writes that arrived after it.";
}

/// Which protections are switched off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaks {
    #[cfg(feature = "breakable")]
    bits: u64,
}

impl Breaks {
    /// None but this one.
    #[cfg(feature = "breakable")]
    #[must_use]
    pub const fn only(one: Break) -> Self {
        Self {
            bits: 1 << one as u64,
        }
    }

    /// Whether this protection is switched off.
    #[cfg(feature = "breakable")]
    #[must_use]
    pub const fn has(self, one: Break) -> bool {
        self.bits & 1 << one as u64 != 0
    }

    /// Whether this protection is switched off.
    #[cfg(not(feature = "breakable"))]
    #[must_use]
    pub const fn has(self, _one: Break) -> bool {
        false
    }
}
