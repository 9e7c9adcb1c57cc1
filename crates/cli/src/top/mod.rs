//! `hmmap top`.

mod picture;
mod screen;
mod source;
mod text;
mod view;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};

use self::{screen::Screen, source::Source};
use crate::args::TopArgs;

/// Readings before a picture is drawn, and the terminal that it is drawn of.
const PICTURE_READINGS: u32 = 12;
const PICTURE_CELLS: (u16, u16) = (100, 34);

pub(crate) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let every = Duration::from_millis(args.every_ms);
    let mut source = Source::find(args)?;
    if args.json || args.once {
        let reading = source.read()?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&reading)?);
        } else {
            print!("{}", text::of(&reading));
        }
        return Ok(());
    }
    let mut screen = Screen::new(source.read()?);
    if let Some(file) = &args.picture {
        for _ in 0..PICTURE_READINGS {
            std::thread::sleep(every);
            screen.turn(source.read()?);
        }
        let mut terminal = Terminal::new(TestBackend::new(PICTURE_CELLS.0, PICTURE_CELLS.1))?;
        let drawn = terminal.draw(|frame| view::draw(&screen, frame))?;
        let svg = picture::svg(drawn.buffer);
        return fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()));
    }
    // Restores the terminal also when this panics.
    let mut terminal =
        ratatui::try_init().context("hmmap top needs a terminal; --once and --json do not")?;
    let shown = show(&mut terminal, &mut source, screen, every);
    ratatui::restore();
    shown
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    source: &mut Source,
    mut screen: Screen,
    every: Duration,
) -> anyhow::Result<()> {
    let mut next = Instant::now() + every;
    loop {
        terminal.draw(|frame| view::draw(&screen, frame))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            if key(&mut screen, &event::read()?) == Pressed::Quit {
                return Ok(());
            }
            continue;
        }
        next = Instant::now() + every;
        match source.read() {
            Ok(reading) => screen.turn(reading),
            // What is there stays to be read; `q` leaves.
            Err(error) => screen.trouble = Some(error.to_string()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pressed {
    Quit,
    Else,
}

/// What a key does.
fn key(screen: &mut Screen, event: &Event) -> Pressed {
    let Event::Key(key) = event else { return Pressed::Else };
    if key.kind != KeyEventKind::Press {
        return Pressed::Else;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return Pressed::Quit,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            return Pressed::Quit;
        }
        KeyCode::Char('p') => screen.is_paused = !screen.is_paused,
        KeyCode::Char('s') => screen.sort = screen.sort.next(),
        _ => {}
    }
    Pressed::Else
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::{screen::Sort, *};

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut screen = Screen::new(hmmap_watch::Reading::default());
        let mut press = |code, modifiers| {
            let pressed = key(&mut screen, &Event::Key(KeyEvent::new(code, modifiers)));
            (pressed, screen.is_paused, screen.sort)
        };
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('p'), none), (Pressed::Else, true, Sort::Rate));
        assert_eq!(press(KeyCode::Char('s'), none), (Pressed::Else, true, Sort::Moved));
        assert_eq!(press(KeyCode::Char('p'), none), (Pressed::Else, false, Sort::Moved));
        assert_eq!(press(KeyCode::Char('c'), none), (Pressed::Else, false, Sort::Moved));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL).0, Pressed::Quit);
        assert_eq!(press(KeyCode::Char('q'), none).0, Pressed::Quit);
        assert_eq!(press(KeyCode::Esc, none).0, Pressed::Quit);
    }
}
