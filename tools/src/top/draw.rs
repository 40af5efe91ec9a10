//! A frame on a terminal.

use ratatui::Frame as Screen;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use super::{Frame, Grid};
use crate::printable::line as printable;
use crate::table::Align;

const HELP: &str = "q quit   arrows or tab: choose a keyspace   s: order";

/// Draws it. `chosen` is the row of the keyspace whose hot keys are shown; `trouble` replaces the
/// line of help.
pub fn draw(screen: &mut Screen<'_>, frame: &Frame, chosen: Option<usize>, trouble: Option<&str>) {
    // Border and heading take three lines. Shards are few; keyspaces and hot keys share the rest.
    let shards = Constraint::Max(u16::try_from(frame.shards.rows.len() + 3).unwrap_or(u16::MAX));
    let [head, keyspaces, shards, hot, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(1),
        shards,
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(screen.area());
    let lines = vec![
        Line::raw(printable(&frame.head)),
        Line::raw(format!("KMS {}", printable(&frame.kms))),
    ];
    screen.render_widget(Paragraph::new(Text::from(lines)), head);
    grid(screen, keyspaces, &frame.keyspaces, "keyspaces", chosen);
    grid(screen, shards, &frame.shards, "shards", None);
    let title = match &frame.hot_of {
        Some(keyspace) => format!("hot keys of {}", printable(keyspace)),
        None => "hot keys".into(),
    };
    match &frame.hot {
        Ok(keys) => grid(screen, hot, keys, &title, None),
        Err(why) => {
            let why = Paragraph::new(printable(why)).block(Block::bordered().title(title));
            screen.render_widget(why, hot);
        }
    }
    let foot_text = trouble.map_or_else(|| HELP.to_owned(), printable);
    let style = match trouble {
        Some(_) => Style::new().add_modifier(Modifier::BOLD),
        None => Style::new().add_modifier(Modifier::DIM),
    };
    screen.render_widget(Paragraph::new(foot_text).style(style), foot);
}

fn grid<const N: usize>(
    screen: &mut Screen<'_>,
    area: Rect,
    grid: &Grid<N>,
    title: &str,
    chosen: Option<usize>,
) {
    let cell = |text: &str, align| {
        let alignment = match align {
            Align::Left => Alignment::Left,
            Align::Right => Alignment::Right,
        };
        Cell::from(Text::from(printable(text)).alignment(alignment))
    };
    let widths: Vec<Constraint> = (0..N)
        .map(|at| {
            let cells = grid
                .rows
                .iter()
                .map(|row| printable(&row[at]).chars().count());
            let width = cells.fold(grid.columns[at].0.len(), usize::max);
            Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
        })
        .collect();
    let rows = grid.rows.iter().map(|row| {
        let cells = row.iter().zip(grid.columns);
        Row::new(cells.map(|(text, (_, align))| cell(text, align)))
    });
    let headings = grid.columns.map(|(heading, align)| cell(heading, align));
    let table = Table::new(rows, widths)
        .header(Row::new(headings).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title.to_owned()));
    screen.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::top::Order;
    use crate::vitals::ServerStatus;

    fn frame() -> Frame {
        let status = |unix_ms: u64, count: u64| -> ServerStatus {
            serde_json::from_value(json!({
                "version": "0.1.0", "pid": 7, "unix_ms": unix_ms, "latency_bounds_ms": [1.0],
                "keyspaces": [
                    {"name": "quiet", "state": "idle", "singleflight_waiters": 9},
                    {"name": "prod\u{1b}[2J", "state": "live", "hits": count,
                     "requests": [{"outcome": "ok", "count": count}]},
                ],
                "shards": [{"shard": 0, "connections": 5, "turn_ms": {"count": count}}],
            }))
            .unwrap()
        };
        Frame::new(&status(1_000, 0), &status(2_000, 250), Order::Requests)
    }

    #[test]
    fn all_parts_are_drawn_and_nothing_acts_on_the_terminal() {
        let mut terminal = Terminal::new(TestBackend::new(120, 24)).unwrap();
        terminal
            .draw(|screen| draw(screen, &frame(), Some(0), None))
            .unwrap();
        let drawn = terminal.backend().to_string();
        for word in [
            "keywayd 0.1.0, pid 7, 2 keyspaces, 1 shard",
            "no KMS",
            "prod\\u{1b}[2J",
            "250",
            "100.00%",
            "hot keys",
            "not asked yet",
            HELP,
        ] {
            assert!(drawn.contains(word), "{word:?} is not in\n{drawn}");
        }
        assert!(
            drawn.find("prod") < drawn.find("quiet"),
            "the busiest first"
        );
        assert!(!drawn.contains('\u{1b}'));
    }

    #[test]
    fn a_terminal_of_any_size_will_do() {
        for (width, height) in [(1, 1), (20, 3), (80, 5), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|screen| draw(screen, &frame(), Some(1), Some("the server is gone")))
                .unwrap();
        }
    }
}
