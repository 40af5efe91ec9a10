//! Doubly linked lists through the values of a slab: O(1) to add and to take out, no allocation.

use crate::slots::{NONE, Slab};

/// The neighbours of a value in one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    pub(crate) const LOOSE: Self = Self {
        prev: NONE,
        next: NONE,
    };
}

/// A value that can be in a list. `WHICH` tells several memberships of one value apart.
pub(crate) trait Linked<const WHICH: u8> {
    fn link(&mut self) -> &mut Link;
    fn next(&self) -> u32;
}

impl Link {
    pub(crate) const fn next(&self) -> u32 {
        self.next
    }
}

/// First and last of a list. Which values are members is the business of the caller: a value is
/// in at most one list of each `WHICH`.
#[derive(Debug)]
pub(crate) struct List<const WHICH: u8> {
    head: u32,
    tail: u32,
    len: u32,
}

impl<const WHICH: u8> Default for List<WHICH> {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }
}

impl<const WHICH: u8> List<WHICH> {
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(crate) fn push_back<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>, at: u32) {
        *slab[at].link() = Link {
            prev: self.tail,
            next: NONE,
        };
        match self.tail {
            NONE => self.head = at,
            tail => slab[tail].link().next = at,
        }
        self.tail = at;
        self.len += 1;
    }

    pub(crate) fn remove<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>, at: u32) {
        let Link { prev, next } = core::mem::replace(slab[at].link(), Link::LOOSE);
        match prev {
            NONE => self.head = next,
            prev => slab[prev].link().next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => slab[next].link().prev = prev,
        }
        self.len -= 1;
    }

    pub(crate) fn pop_front<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>) -> Option<u32> {
        let at = self.front()?;
        self.remove(slab, at);
        Some(at)
    }

    /// The members, first to last.
    pub(crate) fn iter<'a, T: Linked<WHICH>>(
        &self,
        slab: &'a Slab<T>,
    ) -> impl Iterator<Item = u32> + use<'a, T, WHICH> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let here = (at != NONE).then_some(at)?;
            at = slab[here].next();
            Some(here)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    struct Node(Link);

    impl Linked<0> for Node {
        fn link(&mut self) -> &mut Link {
            &mut self.0
        }
        fn next(&self) -> u32 {
            self.0.next()
        }
    }

    #[test]
    fn members_keep_their_order_when_others_leave() {
        let mut slab = Slab::new();
        let mut list = List::<0>::default();
        let nodes: Vec<u32> = (0..5).map(|_| slab.insert(Node(Link::LOOSE))).collect();
        for node in &nodes {
            list.push_back(&mut slab, *node);
        }
        list.remove(&mut slab, nodes[2]);
        list.remove(&mut slab, nodes[0]);
        list.remove(&mut slab, nodes[4]);
        assert_eq!(list.iter(&slab).collect::<Vec<_>>(), [nodes[1], nodes[3]]);
        assert_eq!(list.len(), 2);
        assert_eq!(list.pop_front(&mut slab), Some(nodes[1]));
        assert_eq!(list.pop_front(&mut slab), Some(nodes[3]));
        assert_eq!(list.pop_front(&mut slab), None);
        assert!(list.is_empty());
    }
}
