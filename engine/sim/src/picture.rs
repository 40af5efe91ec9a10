//! Draws the pairs of state and input: the darker, the more often they occurred.

use keyway_sim::{Coverage, Input, KeyState, impossible};
use std::fmt::Write;

const CELL: usize = 24;
const LEFT: usize = 150;
const TOP: usize = 130;
/// A count of 10 to this power is drawn in the darkest shade.
const DECADES: f64 = 8.0;

/// Returns an SVG: a row for each state, a column for each input. Hatched: impossible. Red: not reached.
pub fn svg(coverage: &Coverage, seeds: u64) -> String {
    let (rows, columns) = (KeyState::ALL.len(), Input::ALL.len());
    let (width, height) = (LEFT + columns * CELL + 20, TOP + rows * CELL + 50);
    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        writeln!(svg, "{line}").expect("strings take everything");
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <defs><pattern id=\"no\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">\
         <path d=\"M0 6L6 0\" stroke=\"#bbb\"/></pattern></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    ));
    for (column, input) in Input::ALL.iter().enumerate() {
        let (x, y) = (LEFT + column * CELL + CELL / 2 + 4, TOP - 8);
        put(format_args!(
            "<text transform=\"translate({x} {y}) rotate(-60)\">{input:?}</text>"
        ));
    }
    for (row, state) in KeyState::ALL.iter().enumerate() {
        let y = TOP + row * CELL;
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{state:?}</text>",
            LEFT - 8,
            y + CELL / 2 + 4
        ));
        for (column, input) in Input::ALL.iter().enumerate() {
            let x = LEFT + column * CELL;
            let count = coverage.count(*state, *input);
            let (fill, told) = match impossible(*state, *input) {
                Some(why) if count == 0 => ("url(#no)".to_string(), why.to_string()),
                _ if count == 0 => ("#d33".to_string(), "not reached".to_string()),
                _ => {
                    let part = ((count as f64).log10() / DECADES).clamp(0.0, 1.0);
                    let light = 88.0 - 58.0 * part;
                    (
                        format!("hsl(210 70% {light:.0}%)"),
                        format!("{count} times"),
                    )
                }
            };
            put(format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{0}\" height=\"{0}\" fill=\"{fill}\">\
                 <title>{input:?} in {state:?}: {told}</title></rect>",
                CELL - 2
            ));
        }
    }
    put(format_args!(
        "<text x=\"{LEFT}\" y=\"{}\">{} of {} pairs reached in {seeds} histories; from once (light) \
         to 10^{DECADES} times (dark); hatched: cannot meet; red: not reached</text>\n</svg>",
        TOP + rows * CELL + 28,
        coverage.reached_pairs(),
        Coverage::pairs()
    ));
    svg
}
