//! Requests in flight.

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When it was due, in ns from the start.
    pub due_ns: u64,
    /// Which of the encoded requests it is.
    pub frame: usize,
    /// The connection that it went out on.
    pub connection: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    asked: Option<Asked>,
}

/// Requests by id. An id is a slot's index and its generation, so that a second answer to the same
/// request is found out.
#[derive(Debug, Default)]
pub struct Pending {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Pending {
    /// Returns the number of requests in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a request and gives its id.
    pub fn insert(&mut self, asked: Asked) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                asked: None,
            });
            u32::try_from(self.slots.len() - 1).expect("connections bound what is in flight")
        });
        let slot = &mut self.slots[index as usize];
        slot.asked = Some(asked);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// Removes and returns the request; `None` if no such request is in flight.
    pub fn remove(&mut self, request_id: u64) -> Option<Asked> {
        let index = request_id as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.generation) != request_id >> 32 {
            return None;
        }
        let asked = slot.asked.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(asked)
    }

    /// Returns the requests in flight, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Asked> {
        self.slots.iter().filter_map(|slot| slot.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_one_answer() {
        let mut pending = Pending::default();
        let asked = Asked {
            due_ns: 5,
            frame: 0,
            connection: 1,
        };
        let id = pending.insert(asked);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.remove(id).unwrap().due_ns, 5);
        assert!(pending.remove(id).is_none());
        let again = pending.insert(asked);
        assert_ne!(again, id);
        assert!(pending.remove(id).is_none());
        assert_eq!(pending.iter().count(), 1);
        assert!(pending.remove(7).is_none());
    }
}
