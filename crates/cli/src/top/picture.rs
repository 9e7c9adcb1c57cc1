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
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"13\" xml:space=\"preserve\">\n"
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
    let text: String = run.iter().map(Cell::symbol).collect();
    if text.trim().is_empty() {
        return;
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let bold = if is_bold { " font-weight=\"bold\"" } else { "" };
    let base = y + 13;
    svg.push_str(&format!(
        "<text x=\"{x}\" y=\"{base}\" textLength=\"{long}\" fill=\"{front}\"{bold}>{text}</text>\n"
    ));
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
        let svg = svg(&buffer);
        assert!(svg.contains(">a&lt;b&amp;c</text>") && svg.contains("fill=\"#e06c75\""), "{svg}");
        assert!(svg.contains(">plain  </text>"), "{svg}");
        assert!(svg.contains("<rect x=\"8\" y=\"25\" width=\"16\""), "{svg}");
        assert!(svg.contains("font-weight=\"bold\">on</text>"), "{svg}");
    }
}
