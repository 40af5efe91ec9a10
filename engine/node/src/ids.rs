//! Numbers that name things between the parts of a node. Each kind is a type of its own, so that none is taken for another.

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub u64);

            impl $name {
                /// The number after this one.
                #[must_use]
                pub const fn next(self) -> Self {
                    Self(self.0 + 1)
                }

                /// Counts up, and returns the new number.
                pub fn count_up(&mut self) -> Self {
                    *self = self.next();
                    *self
                }
            }
        )*
    };
}

numbers! {
    /// Orders the changes of all keyspaces: a shard ignores one that is older than what it has.
    Revision;
    /// Locks of a keyspace so far. What began under an older epoch is void.
    Epoch;
    /// Unlocks of a keyspace so far.
    Opening;
    /// A call to a KMS, which gets exactly one answer.
    CallId;
    /// A write of the catalogue's file, which gets exactly one result.
    WriteId;
    /// A work of control.
    WorkId;
    /// What control has asked a shard, which gets at most one answer.
    QuestionId;
}
