//! Tests of slots and tables, and of the handles that name a place in them.

use super::*;

#[test]
fn freed_slot_is_reused_and_the_old_handle_does_not_find_the_new_value() {
    let mut slots: Slots<char> = Slots::new();
    let one = slots.insert('a');
    let two = slots.insert('b');
    let before = slots.handle(one);
    assert_eq!(slots.get(before), Some(&'a'));
    assert_eq!(slots.remove(one), 'a');
    assert_eq!((slots.get(before), slots.used(one)), (None, None));
    assert_eq!(slots.insert('c'), one);
    assert_eq!(slots.get(before), None);
    assert_eq!(slots.take(before), None);
    assert_eq!((slots[one], slots[two], slots.len()), ('c', 'b', 2));
    assert_ne!(slots.handle(one), before);
}

#[test]
fn handle_takes_its_value_once() {
    let mut slots: Slots<char> = Slots::new();
    let at = slots.insert('a');
    let handle = slots.handle(at);
    *slots.get_mut(handle).expect("it is there") = 'b';
    assert_eq!(slots.take(handle), Some('b'));
    assert_eq!(slots.take(handle), None);
    assert_eq!(slots.get_mut(handle), None);
    assert!(slots.is_empty());
}

#[test]
fn vacant_handle_is_that_of_the_next_value() {
    let mut slots: Slots<u32> = Slots::new();
    for value in 0..4 {
        let vacant = slots.vacant();
        assert_eq!(slots.get(vacant), None, "nothing is there yet");
        let at = slots.insert(value);
        assert_eq!(slots.handle(at), vacant, "of a slot that is new");
    }
    for number in [2, 0, 3] {
        let (at, _) = slots.nth(number).expect("it is used");
        slots.remove(at);
    }
    for value in 4..8 {
        let vacant = slots.vacant();
        assert_eq!(slots.get(vacant), None, "nothing is there yet");
        let at = slots.insert(value);
        assert_eq!(slots.handle(at), vacant, "of a slot that is used again");
    }
}

#[test]
fn handle_round_trips_through_a_number() {
    let mut slots: Slots<u32> = Slots::new();
    let at = slots.insert(7);
    slots.remove(at);
    slots.insert(8);
    let handle = slots.handle(at);
    let back = Handle::from_bits(handle.to_bits()).expect("it was made by to_bits");
    assert_eq!((back, slots.get(back)), (handle, Some(&8)));
    assert_ne!(handle.to_bits() >> 32, 0, "the slot is used again");
    assert_eq!(Handle::<u32>::from_bits(0), None);
    let far = Handle::from_bits(u64::MAX).expect("any other number names some slot");
    assert_eq!(slots.get(far), None);
}

#[test]
fn values_are_iterated_in_the_order_of_their_slots() {
    let mut slots: Slots<u32> = Slots::new();
    let places: Vec<At<u32>> = (0..5).map(|value| slots.insert(value)).collect();
    slots.remove(places[1]);
    slots.remove(places[3]);
    let left: Vec<_> = slots.iter().map(|(at, value)| (at, *value)).collect();
    assert_eq!(left, [(places[0], 0), (places[2], 2), (places[4], 4)]);
    assert_eq!(slots.high_water(), 5);
    assert_eq!((slots.nth(1), slots.nth(2)), (None, Some((places[2], &2))));
    assert_eq!(slots.nth(5), None);
}

#[test]
fn option_of_a_place_takes_no_extra_space() {
    assert_eq!(size_of::<Option<At<u64>>>(), size_of::<u32>());
    assert_eq!(size_of::<Option<Handle<u64>>>(), size_of::<u64>());
}

#[test]
fn table_keeps_its_order() {
    let mut table = Table::new();
    assert!(table.is_empty());
    let places: Vec<At<char>> = "abc".chars().map(|value| table.push(value)).collect();
    table[places[1]] = 'B';
    assert_eq!(table.places().collect::<Vec<_>>(), places);
    let values: Vec<char> = table.iter().map(|(at, _)| table[at]).collect();
    assert_eq!(
        (values, table.len()),
        (["a", "B", "c"].concat().chars().collect(), 3)
    );
}
