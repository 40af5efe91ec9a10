//! What is chosen and in which order, and what the keys do about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What keyspaces are ordered by, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Requests a second.
    #[default]
    Requests,
    /// Requests that wait.
    Waiters,
    /// Loads a second.
    Loads,
    /// By name.
    Name,
}

impl Order {
    /// In words, for the heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Waiters => "waiters",
            Self::Loads => "loads",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Requests => Self::Waiters,
            Self::Waiters => Self::Loads,
            Self::Loads => Self::Name,
            Self::Name => Self::Requests,
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing that concerns the server.
    Redraw,
    /// Another keyspace's hot keys.
    Ask,
    /// The end.
    Quit,
    /// The key means nothing.
    Nothing,
}

/// What is chosen and in which order.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The keyspace that was chosen; the first row if none, or if it is gone.
    pub chosen: Option<String>,
    /// What keyspaces are ordered by.
    pub order: Order,
}

impl View {
    /// Takes a key. `names` are the keyspaces as they are shown.
    pub fn key(&mut self, key: KeyEvent, names: &[String]) -> Act {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => Act::Quit,
            KeyCode::Char('q') | KeyCode::Esc => Act::Quit,
            KeyCode::Char('s') => {
                // Whatever the order, the same keyspace stays chosen.
                self.chosen = self.row(names).map(|at| names[at].clone());
                self.order = self.order.next();
                Act::Redraw
            }
            KeyCode::Down | KeyCode::Tab | KeyCode::Char('j') => self.step(names, 1),
            KeyCode::Up | KeyCode::BackTab | KeyCode::Char('k') => {
                self.step(names, names.len().saturating_sub(1))
            }
            _ => Act::Nothing,
        }
    }

    /// The row that is chosen.
    pub fn row(&self, names: &[String]) -> Option<usize> {
        let chosen = self.chosen.as_ref();
        let at = chosen.and_then(|chosen| names.iter().position(|name| name == chosen));
        at.or((!names.is_empty()).then_some(0))
    }

    fn step(&mut self, names: &[String], by: usize) -> Act {
        let Some(at) = self.row(names) else {
            return Act::Nothing;
        };
        self.chosen = Some(names[(at + by) % names.len()].clone());
        Act::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_order_and_quit() {
        let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let mut view = View::default();
        assert_eq!(view.row(&names), Some(0));
        for (code, act, row) in [
            (KeyCode::Down, Act::Ask, 1),
            (KeyCode::Tab, Act::Ask, 2),
            (KeyCode::Down, Act::Ask, 0),
            (KeyCode::Up, Act::Ask, 2),
            (KeyCode::BackTab, Act::Ask, 1),
            (KeyCode::Char('x'), Act::Nothing, 1),
            (KeyCode::Char('s'), Act::Redraw, 1),
            (KeyCode::Char('q'), Act::Quit, 1),
        ] {
            assert_eq!(view.key(code.into(), &names), act, "{code:?}");
            assert_eq!(view.row(&names), Some(row), "{code:?}");
        }
        assert_eq!(view.order, Order::Waiters);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.key(interrupt, &names), Act::Quit);
    }

    #[test]
    fn a_chosen_keyspace_stays_chosen_and_one_that_is_gone_is_not() {
        let mut view = View {
            chosen: Some("b".into()),
            ..View::default()
        };
        assert_eq!(view.row(&["b".into(), "a".into()]), Some(0));
        assert_eq!(view.row(&["a".into(), "b".into()]), Some(1));
        assert_eq!(view.row(&["a".into()]), Some(0));
        assert_eq!(view.row(&[]), None);
        assert_eq!(view.key(KeyCode::Down.into(), &[]), Act::Nothing);
    }

    #[test]
    fn every_order_comes_round() {
        let mut order = Order::default();
        let seen = [(); 4].map(|()| {
            order = order.next();
            order.name()
        });
        assert_eq!(seen, ["waiters", "loads", "name", "requests"]);
    }
}
