//! The view in a terminal.

use hmmap_watch::{NodeReading, VectorReading};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table},
};

use super::{
    screen::{Rate, Screen},
    text,
};
use crate::words;

const HOST: Color = Color::Rgb(230, 159, 0);
const DEVICE: Color = Color::Rgb(70, 150, 210);
const QUIET: Color = Color::DarkGray;
/// A vector's bar has so many cells.
const BAR_CELLS: u64 = 16;

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let nodes = screen.now.nodes.len() as u16;
    let causes = screen.now.causes.len() as u16;
    let [head, nodes, curves, causes, vectors, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(nodes + 2),
        Constraint::Length(5),
        Constraint::Length(causes + 3),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(title(screen), head);
    draw_nodes(screen, frame, nodes);
    draw_curves(screen, frame, curves);
    draw_causes(screen, frame, causes);
    draw_vectors(screen, frame, vectors);
    frame.render_widget(keys(screen), foot);
}

fn title(screen: &Screen) -> Paragraph<'_> {
    let now = &screen.now;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut line = vec![
        Span::styled(format!(" {} ", now.program), bold),
        Span::raw(format!(
            "process {}, {:.1} s: {} launches, {:.0}/s; {} blocks evicted, {:.0}/s",
            now.process,
            now.at_s,
            now.launches,
            screen.launches_per_second(),
            now.evicted_blocks,
            screen.evicted_per_second()
        )),
    ];
    for (count, what) in [
        (now.windowed, "through windows"),
        (now.ignored_victims, "answers ignored"),
        (now.revocations, "taken back from peers"),
    ] {
        if count > 0 {
            line.push(Span::raw(format!("; {count} {what}")));
        }
    }
    if screen.is_paused {
        line.push(Span::styled("  paused", Style::new().fg(Color::Yellow)));
    }
    Paragraph::new(Line::from(line))
}

fn draw_nodes(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" nodes ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let rows =
        Layout::vertical(screen.now.nodes.iter().map(|_| Constraint::Length(1))).split(inside);
    for (node, row) in screen.now.nodes.iter().zip(rows.iter()) {
        let [name, bar] =
            Layout::horizontal([Constraint::Length(34), Constraint::Min(10)]).areas(*row);
        frame.render_widget(Paragraph::new(format!("{:<9} {}", node.node, node.name)), name);
        frame.render_widget(gauge(node), bar);
    }
}

fn gauge(node: &NodeReading) -> Gauge<'_> {
    let used = words::bytes(node.used_bytes);
    let (ratio, label, color) = match node.limit_bytes {
        Some(limit) => {
            let ratio = (node.used_bytes as f64 / limit.max(1) as f64).clamp(0.0, 1.0);
            let valid = words::bytes(node.valid_bytes);
            let label = format!("{used} of {} taken, {valid} current", words::bytes(limit));
            (ratio, label, DEVICE)
        }
        None => (0.0, format!("{used} current, no budget"), HOST),
    };
    Gauge::default().ratio(ratio).label(label).gauge_style(Style::new().fg(color))
}

fn draw_curves(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let halves = Layout::horizontal([Constraint::Fill(1); 2]).areas::<2>(area);
    let to_device = |rate: &Rate| rate.to_device as u64;
    let to_host = |rate: &Rate| rate.to_host as u64;
    let to_device: Vec<u64> = screen.history.iter().map(to_device).collect();
    let to_host: Vec<u64> = screen.history.iter().map(to_host).collect();
    let ways = [("to devices", DEVICE, to_device), ("to the host", HOST, to_host)];
    for ((name, color, rates), area) in ways.into_iter().zip(halves) {
        let shown = usize::from(area.width.saturating_sub(2));
        let rates = &rates[rates.len().saturating_sub(shown)..];
        let last = rates.last().copied().unwrap_or(0);
        let most = rates.iter().copied().max().unwrap_or(0);
        let title =
            format!(" {name}: {}, at most {} ", per_second(last as f64), per_second(most as f64));
        let curve = Sparkline::default().data(rates).style(Style::new().fg(color));
        frame.render_widget(curve.block(Block::bordered().title(title)), area);
    }
}

fn draw_causes(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let header = [
        "cause",
        "to devices/s",
        "to the host/s",
        "to devices",
        "to the host",
        "between",
        "zeroed",
    ];
    let rows = screen.now.causes.iter().map(|cause| {
        let rate = screen.rate_of(cause);
        let cells = [
            cause.cause.clone(),
            per_second(rate.to_device),
            per_second(rate.to_host),
            words::bytes(cause.to_device_bytes),
            words::bytes(cause.to_host_bytes),
            words::bytes(cause.between_bytes),
            words::bytes(cause.zeroed_bytes),
        ];
        let moved = cause.to_device_bytes + cause.to_host_bytes + cause.between_bytes;
        let is_quiet = moved + cause.zeroed_bytes == 0;
        Row::new(cells).style(if is_quiet { Style::new().fg(QUIET) } else { Style::new() })
    });
    let widths = [Constraint::Length(10), Constraint::Length(14), Constraint::Length(14)];
    let widths = widths.into_iter().chain([Constraint::Fill(1); 4]);
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(" what moves, and why "));
    frame.render_widget(table, area);
}

fn draw_vectors(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let header =
        ["vector", "size", "where", "to devices/s", "to the host/s", "moved", "last launch"];
    let rows = screen.vectors().into_iter().map(|vector| {
        let rate = screen.rate_of_vector(vector);
        Row::new([
            Line::from(text::name(vector)),
            Line::from(words::bytes(vector.len_bytes)),
            place(vector),
            Line::from(per_second(rate.to_device)),
            Line::from(per_second(rate.to_host)),
            Line::from(words::bytes(vector.to_device_bytes + vector.to_host_bytes)),
            Line::from(vector.last_launch.to_string()),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(2 * BAR_CELLS as u16 / 2 + 1),
        Constraint::Length(14),
        Constraint::Length(14),
        Constraint::Length(10),
        Constraint::Length(11),
    ];
    let title = Line::from(vec![
        Span::raw(format!(" vectors by {}; ", screen.sort.name())),
        Span::styled("■ host ", Style::new().fg(HOST)),
        Span::styled("■ devices ", Style::new().fg(DEVICE)),
        Span::styled("■ several ", Style::new().fg(Color::Green)),
        Span::styled("· nobody ", Style::new().fg(QUIET)),
    ]);
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

/// Who holds how much of a vector: the host alone, several, devices alone, nobody.
fn place(vector: &VectorReading) -> Line<'static> {
    let len = vector.len_bytes.max(1);
    let of = |is_host: bool| -> u64 {
        let nodes = vector.valid_bytes.iter().filter(|(node, _)| (node == "host") == is_host);
        nodes.map(|(_, bytes)| bytes).sum()
    };
    let (host, both, devices) = (of(true), vector.clean_bytes, of(false));
    let cells = |bytes: u64| (bytes * BAR_CELLS).div_ceil(len);
    let mut left = BAR_CELLS;
    let mut bar = Vec::new();
    for (bytes, color) in [
        (host.saturating_sub(both), HOST),
        (both, Color::Green),
        (devices.saturating_sub(both), DEVICE),
    ] {
        let count = cells(bytes).min(left);
        left -= count;
        bar.push(Span::styled("■".repeat(count as usize), Style::new().fg(color)));
    }
    bar.push(Span::styled("·".repeat(left as usize), Style::new().fg(QUIET)));
    Line::from(bar)
}

fn keys(screen: &Screen) -> Paragraph<'_> {
    match &screen.trouble {
        Some(trouble) => Paragraph::new(format!(" {trouble}; q leaves"))
            .style(Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)),
        None => Paragraph::new(" q quits   p pauses   s sorts").style(Style::new().fg(QUIET)),
    }
}

fn per_second(rate: f64) -> String {
    format!("{}/s", words::bytes(rate as u64))
}

#[cfg(test)]
mod tests {
    use hmmap_watch::Reading;
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::demo::Demo;

    fn shown(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| draw(screen, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_is_shown_is_what_a_real_run_has_counted() {
        let mut demo = Demo::new(Some("embedded")).unwrap();
        let mut screen = Screen::new(Reading::take(demo.runtime(), 0.0));
        demo.round().unwrap();
        screen.turn(Reading::take(demo.runtime(), 0.5));
        let stats = demo.runtime().stats();
        let text = shown(&screen);
        let has = |words: &str| assert!(text.contains(words), "no `{words}` in\n{text}");
        has(&format!("{} launches, {}/s", stats.launches, stats.launches * 2));
        for cause in [hmmap::Cause::Launch, hmmap::Cause::Eviction, hmmap::Cause::Fault] {
            let moved = stats[cause];
            let line = text.lines().find(|line| line.contains(&format!("│{cause} ")));
            let line = line.unwrap_or_else(|| panic!("no {cause} in\n{text}"));
            for bytes in [moved.to_device_bytes, moved.to_host_bytes, moved.zeroed_bytes] {
                assert!(line.contains(&words::bytes(bytes)), "no {bytes} in {line}");
            }
            let rate = format!("{}/s", words::bytes(moved.to_host_bytes * 2));
            assert!(line.contains(&rate), "no {rate} in {line}");
        }
        let row = |name: &str| {
            let line = text.lines().position(|line| line.starts_with(&format!("\"│{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        };
        // `a` alone comes home.
        assert!(row("a") < row("hot") && row("b") < row("hot"), "{text}");
        has("of 32 MiB taken");
        has("by bytes moved per second");
        assert!(!text.contains("paused"));
    }

    #[test]
    fn a_process_that_is_gone_is_told_of_and_what_it_was_stays() {
        let mut screen = Screen::new(Reading { program: "gone".to_owned(), ..Reading::default() });
        screen.is_paused = true;
        screen.trouble = Some("process 7 has ended".to_owned());
        let text = shown(&screen);
        assert!(text.contains("process 7 has ended; q leaves"), "{text}");
        assert!(text.contains("gone") && text.contains("paused"), "{text}");
    }

    #[test]
    fn a_bar_is_who_holds_how_much() {
        let mib = 1 << 20;
        let vector = VectorReading {
            len_bytes: 16 * mib,
            valid_bytes: vec![("host".to_owned(), 8 * mib), ("device 0".to_owned(), 6 * mib)],
            clean_bytes: 4 * mib,
            ..VectorReading::default()
        };
        let bar = place(&vector);
        let parts: Vec<_> =
            bar.spans.iter().map(|span| (span.content.chars().count(), span.style.fg)).collect();
        let color = Some;
        assert_eq!(
            parts,
            [(4, color(HOST)), (4, color(Color::Green)), (2, color(DEVICE)), (6, color(QUIET))]
        );
    }
}
