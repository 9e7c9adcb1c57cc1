//! What a terminal shows, as an SVG.

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

const CELL_PIXELS: (u32, u32) = (8, 17);
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d8dee9";

/// The cells as text, a run of the same style each.
pub(super) fn svg(buffer: &Buffer) -> String {
    let (width, height) = (u32::from(buffer.area.width), u32::from(buffer.area.height));
    let (wide, high) = (width * CELL_PIXELS.0 + 16, height * CELL_PIXELS.1 + 16);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" viewBox=\"0 0 {wide} {high}\">\n\
         <rect width=\"{wide}\" height=\"{high}\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"13.3\" xml:space=\"preserve\">\n"
    );
    for (row, cells) in buffer.content().chunks(width.max(1) as usize).enumerate() {
        let y = row as u32 * CELL_PIXELS.1 + 8;
        let mut column = 0;
        for run in cells.chunk_by(|a, b| look(a) == look(b)) {
            push(&mut svg, run, (column * CELL_PIXELS.0 + 8, y));
            column += run.len() as u32;
        }
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn push(svg: &mut String, run: &[Cell], (x, y): (u32, u32)) {
    let Some(first) = run.first() else { return };
    let (front, back, is_bold) = look(first);
    let long = run.len() as u32 * CELL_PIXELS.0;
    if let Some(back) = back {
        let high = CELL_PIXELS.1;
        svg.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{long}\" height=\"{high}\" fill=\"{back}\"/>\n"
        ));
    }
    let bold = if is_bold { " font-weight=\"bold\"" } else { "" };
    let mut column = 0;
    // Word by word: what displays pictures may draw blanks as it likes.
    for word in run.chunk_by(|a, b| kind(a) == kind(b)) {
        let (left, wide) = (x + column * CELL_PIXELS.0, word.len() as u32 * CELL_PIXELS.0);
        column += word.len() as u32;
        match word.first().map(kind) {
            None | Some(Kind::Blank) => {}
            Some(Kind::Fill(across, up)) => {
                let (wide, high) = (wide * across / 8, CELL_PIXELS.1 * up / 8);
                let top = y + CELL_PIXELS.1 - high;
                svg.push_str(&format!(
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{wide}\" height=\"{high}\" fill=\"{front}\"/>\n"
                ));
            }
            Some(Kind::Line(ends)) => {
                let (middle, half) = (y + CELL_PIXELS.1 / 2, CELL_PIXELS.0 / 2);
                for (number, _) in word.iter().enumerate() {
                    let across = left + number as u32 * CELL_PIXELS.0 + half;
                    let path = line(ends, (across, middle));
                    svg.push_str(&format!(
                        "<path d=\"{path}\" stroke=\"{front}\" fill=\"none\"/>\n"
                    ));
                }
            }
            Some(Kind::Text) => {
                let text: String = word.iter().map(Cell::symbol).collect();
                let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let base = y + 13;
                svg.push_str(&format!(
                    "<text x=\"{left}\" y=\"{base}\" textLength=\"{wide}\" fill=\"{front}\"{bold}>{text}</text>\n"
                ));
            }
        }
    }
}

/// How a cell is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Blank,
    Text,
    /// So many eighths of it from the left, and from below: fonts leave gaps between such letters.
    Fill(u32, u32),
    /// Lines from the middle to the left, the right, above, below: fonts leave gaps here too.
    Line([bool; 4]),
}

/// The path of a line through a cell's middle.
fn line([left, right, above, below]: [bool; 4], (across, middle): (u32, u32)) -> String {
    let (half, rise) = (CELL_PIXELS.0 / 2, CELL_PIXELS.1 / 2);
    let mut path = String::new();
    for (there, x, y) in [
        (left, across - half, middle),
        (right, across + half, middle),
        (above, across, middle - rise),
        (below, across, middle + rise + 1),
    ] {
        if there {
            path.push_str(&format!("M{across} {middle}L{x} {y}"));
        }
    }
    path
}

fn kind(cell: &Cell) -> Kind {
    let letter = cell.symbol().chars().next().unwrap_or(' ');
    match letter {
        ' ' => Kind::Blank,
        '\u{2581}'..='\u{2588}' => Kind::Fill(8, letter as u32 - 0x2580),
        '\u{2589}'..='\u{258f}' => Kind::Fill(0x2590 - letter as u32, 8),
        '─' => Kind::Line([true, true, false, false]),
        '│' => Kind::Line([false, false, true, true]),
        '┌' => Kind::Line([false, true, false, true]),
        '┐' => Kind::Line([true, false, false, true]),
        '└' => Kind::Line([false, true, true, false]),
        '┘' => Kind::Line([true, false, true, false]),
        _ => Kind::Text,
    }
}

/// Foreground, background where there is one, and whether it is bold.
fn look(cell: &Cell) -> (String, Option<String>, bool) {
    let front = color(cell.fg).unwrap_or_else(|| FOREGROUND.to_owned());
    let back = color(cell.bg);
    let is_bold = cell.modifier.contains(Modifier::BOLD);
    if cell.modifier.contains(Modifier::REVERSED) {
        return (back.unwrap_or_else(|| BACKGROUND.to_owned()), Some(front), is_bold);
    }
    (front, back, is_bold)
}

fn color(color: Color) -> Option<String> {
    Some(match color {
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
        Color::DarkGray => "#6b7280".to_owned(),
        Color::Green => "#00a878".to_owned(),
        Color::Yellow => "#e5c07b".to_owned(),
        Color::Red => "#e06c75".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::{layout::Rect, style::Style};

    use super::*;

    #[test]
    fn every_cell_is_there_and_words_of_the_format_are_not_taken_for_it() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(0, 0, "a<b&c", Style::new().fg(Color::Red));
        buffer.set_string(5, 0, "plain", Style::new());
        buffer.set_string(0, 1, "on", Style::new().bg(Color::Green).add_modifier(Modifier::BOLD));
        buffer.set_string(4, 1, "▄", Style::new().fg(Color::Yellow));
        buffer.set_string(6, 1, "┌", Style::new());
        let svg = svg(&buffer);
        assert!(svg.contains(">a&lt;b&amp;c</text>") && svg.contains("fill=\"#e06c75\""), "{svg}");
        assert!(
            svg.contains("<text x=\"48\" y=\"21\" textLength=\"40\" fill=\"#d8dee9\">plain</text>"),
            "{svg}"
        );
        assert!(svg.contains("<rect x=\"8\" y=\"25\" width=\"16\""), "{svg}");
        assert!(
            svg.contains("x=\"40\" y=\"34\" width=\"8\" height=\"8\" fill=\"#e5c07b\""),
            "{svg}"
        );
        assert!(svg.contains("M60 33L64 33M60 33L60 42"), "{svg}");
        assert!(svg.contains("font-weight=\"bold\">on</text>"), "{svg}");
    }
}
