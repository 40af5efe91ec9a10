//! Doubly linked lists through the values of slots: O(1) insertion and removal, no allocation.

use crate::slots::{At, Slots};

/// The neighbours of a value in one list.
#[derive(Debug)]
pub(crate) struct Link<M> {
    prev: Option<At<M>>,
    next: Option<At<M>>,
}

/// A value that can be in a list. `WHICH` distinguishes several memberships of one value.
pub(crate) trait Linked<const WHICH: u8> {
    /// Identifies the value's slot.
    type Slot;

    fn link(&mut self) -> &mut Link<Self::Slot>;
    fn next(&self) -> Option<At<Self::Slot>>;
}

impl<M> Link<M> {
    pub(crate) const UNLINKED: Self = Self {
        prev: None,
        next: None,
    };

    pub(crate) const fn next(&self) -> Option<At<M>> {
        self.next
    }
}

/// First and last of a list. The caller tracks which values are members: a value is in at most one list of each `WHICH`.
#[derive(Debug)]
pub(crate) struct List<M, const WHICH: u8> {
    head: Option<At<M>>,
    tail: Option<At<M>>,
    len: u32,
}

impl<M, const WHICH: u8> Default for List<M, WHICH> {
    fn default() -> Self {
        Self {
            head: None,
            tail: None,
            len: 0,
        }
    }
}

impl<M, const WHICH: u8> List<M, WHICH> {
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn front(&self) -> Option<At<M>> {
        self.head
    }

    pub(crate) fn push_back<T>(&mut self, slots: &mut Slots<T, M>, at: At<M>)
    where
        T: Linked<WHICH, Slot = M>,
    {
        *slots[at].link() = Link {
            prev: self.tail,
            next: None,
        };
        match self.tail {
            None => self.head = Some(at),
            Some(tail) => slots[tail].link().next = Some(at),
        }
        self.tail = Some(at);
        self.len += 1;
    }

    pub(crate) fn remove<T>(&mut self, slots: &mut Slots<T, M>, at: At<M>)
    where
        T: Linked<WHICH, Slot = M>,
    {
        let Link { prev, next } = core::mem::replace(slots[at].link(), Link::UNLINKED);
        match prev {
            None => self.head = next,
            Some(prev) => slots[prev].link().next = next,
        }
        match next {
            None => self.tail = prev,
            Some(next) => slots[next].link().prev = prev,
        }
        self.len -= 1;
    }

    pub(crate) fn pop_front<T>(&mut self, slots: &mut Slots<T, M>) -> Option<At<M>>
    where
        T: Linked<WHICH, Slot = M>,
    {
        let at = self.front()?;
        self.remove(slots, at);
        Some(at)
    }

    /// Iterates over the members, first to last.
    pub(crate) fn iter<'a, T>(
        &self,
        slots: &'a Slots<T, M>,
    ) -> impl Iterator<Item = At<M>> + use<'a, T, M, WHICH>
    where
        T: Linked<WHICH, Slot = M>,
    {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let here = at?;
            at = slots[here].next();
            Some(here)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    struct Node(Link<Self>);

    impl Linked<0> for Node {
        type Slot = Self;

        fn link(&mut self) -> &mut Link<Self> {
            &mut self.0
        }
        fn next(&self) -> Option<At<Self>> {
            self.0.next()
        }
    }

    #[test]
    fn members_keep_their_order_when_others_are_removed() {
        let mut slots: Slots<Node> = Slots::new();
        let mut list = List::<Node, 0>::default();
        let nodes: Vec<_> = (0..5).map(|_| slots.insert(Node(Link::UNLINKED))).collect();
        for node in &nodes {
            list.push_back(&mut slots, *node);
        }
        list.remove(&mut slots, nodes[2]);
        list.remove(&mut slots, nodes[0]);
        list.remove(&mut slots, nodes[4]);
        assert_eq!(list.iter(&slots).collect::<Vec<_>>(), [nodes[1], nodes[3]]);
        assert_eq!(list.len(), 2);
        assert_eq!(list.pop_front(&mut slots), Some(nodes[1]));
        assert_eq!(list.pop_front(&mut slots), Some(nodes[3]));
        assert_eq!(list.pop_front(&mut slots), None);
        assert!(list.is_empty());
    }
}
