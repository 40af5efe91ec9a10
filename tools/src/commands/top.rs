//! `top`: a live view of the metrics, until `q`.

use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use keyway_client::{HotBy, HotKeys, KeyspaceName};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::figures;
use crate::args::{Cli, Top};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::top::{Act, Frame, View, draw};
use crate::vitals::ServerStatus;

/// How many hot keys are asked for.
const HOT_KEYS: u16 = 20;

pub fn run(cli: &Cli, command: &Top, output: Output) -> Result<(), Failure> {
    let screen = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !command.once && !screen {
        return Err(Failure::usage(
            "top: it draws on a terminal, and this is none",
            "write one frame as text with --once, or as JSON with --once --json",
        ));
    }
    if !command.once && output.json {
        return Err(Failure::usage("top: --json is for one frame", "add --once"));
    }
    let mut watch = Watch::start(cli, command)?;
    if command.once {
        thread::sleep(command.interval);
        watch.ask()?;
        let frame = watch.frame();
        return output.print_result(&frame.document(), &frame.text());
    }
    // Whatever ends the loop, a panic too, the terminal is put back: `init` hooks panics.
    let terminal = ratatui::try_init().map_err(|error| Failure::stream("the terminal", &error))?;
    let ended = watch.show(terminal, command.interval);
    ratatui::restore();
    ended
}

/// A server and what it told last.
struct Watch {
    server: Server,
    before: ServerStatus,
    now: ServerStatus,
    view: View,
    hot: Option<(String, Result<HotKeys, String>)>,
}

impl Watch {
    fn start(cli: &Cli, command: &Top) -> Result<Self, Failure> {
        let server = Server::reach(cli)?;
        let now = figures::vitals(&server, "top")?;
        let chosen = command
            .keyspace
            .as_ref()
            .map(|name| name.as_str().to_owned());
        if let Some(name) = &chosen
            && !now.keyspaces.iter().any(|keyspace| keyspace.name == *name)
        {
            return Err(Failure::refused(
                format!("top: the server has no metrics of a keyspace {name}"),
                "see `keyway keyspace list`",
            ));
        }
        Ok(Self {
            server,
            before: now.clone(),
            now,
            view: View {
                chosen,
                ..View::default()
            },
            hot: None,
        })
    }

    /// Asks for all that is shown.
    fn ask(&mut self) -> Result<(), Failure> {
        let now = figures::vitals(&self.server, "top")?;
        self.before = std::mem::replace(&mut self.now, now);
        self.ask_hot();
        Ok(())
    }

    /// Asks for the hot keys of the chosen keyspace. A refusal is shown in their place.
    fn ask_hot(&mut self) {
        let names = self.frame().names();
        let chosen = self.view.row(&names).map(|at| names[at].clone());
        self.hot = chosen.map(|name| {
            let hot = self.hot_keys(&name).map_err(|failure| failure.to_string());
            (name, hot)
        });
    }

    fn hot_keys(&self, name: &str) -> Result<HotKeys, Failure> {
        let name: KeyspaceName = name
            .parse()
            .map_err(|error| Failure::bad_answer("top", &error))?;
        let doing = format!("hot {name}");
        let answer = self.server.call(&doing, Some(name.as_str()), |client| {
            client.keyspace_hot(&name, HotBy::Requests, HOT_KEYS)
        })?;
        Ok(answer.value)
    }

    fn frame(&self) -> Frame {
        let frame = Frame::new(&self.before, &self.now, self.view.order);
        match &self.hot {
            Some((name, hot)) => frame.with_hot(name.clone(), hot.as_ref().map_err(Clone::clone)),
            None => frame,
        }
    }

    /// Draws until `q`. If the server becomes unreachable, shows that at the bottom and retries.
    fn show(&mut self, mut terminal: DefaultTerminal, interval: Duration) -> Result<(), Failure> {
        let trouble_of = |error: &std::io::Error| Failure::stream("the terminal", error);
        let mut trouble = None;
        self.ask_hot();
        let mut next = Instant::now() + interval;
        loop {
            let frame = self.frame();
            let names = frame.names();
            let chosen = self.view.row(&names);
            terminal
                .draw(|screen| draw::draw(screen, &frame, chosen, trouble.as_deref()))
                .map_err(|error| trouble_of(&error))?;
            let left = next.saturating_duration_since(Instant::now());
            if !event::poll(left).map_err(|error| trouble_of(&error))? {
                trouble = self.ask().err().map(|failure| failure.to_string());
                next = Instant::now() + interval;
                continue;
            }
            let event = event::read().map_err(|error| trouble_of(&error))?;
            let Event::Key(key) = event else {
                // A new size: redrawn.
                continue;
            };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match self.view.key(key, &names) {
                Act::Quit => return Ok(()),
                Act::Ask => self.ask_hot(),
                Act::Redraw | Act::Nothing => {}
            }
        }
    }
}
