//! Figures that have no axis in common: a bar for each, those of a unit together, each beside what it is to be.

use super::figure::{Colour, FAINT_INK, GRID, HEADER, INK, MARGIN, Svg, WIDTH};

/// Height of a bar with the space around it, and of the bar itself.
const STEP: f64 = 25.0;
const THICK: f64 = 13.0;

/// Height of a group's heading, and the space below a group.
const HEADING: f64 = 30.0;
const BELOW: f64 = 14.0;

/// Width of the names, and of the space right of the longest bar for its value.
const NAMES: f64 = 430.0;
const VALUES: f64 = 150.0;

/// Letters of a name that fit.
const LETTERS: usize = 66;

/// Bars of the same unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The unit.
    pub title: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it is.
    pub name: String,
    /// How long the bar is.
    pub value: f64,
    /// The value for people.
    pub text: String,
    /// The least and the greatest of several runs.
    pub range: Option<(f64, f64)>,
    /// What it is to be at most or at least, and whether it is.
    pub budget: Option<(f64, bool)>,
}

/// Groups of bars as an SVG document.
#[must_use]
pub fn to_svg(title: &str, subtitle: &str, groups: &[Group]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "few bars")]
    let height_of = |group: &Group| HEADING + STEP * group.bars.len() as f64 + BELOW;
    let height = MARGIN + HEADER + groups.iter().map(height_of).sum::<f64>() + MARGIN / 2.0;
    let mut svg = Svg::begin(title, subtitle, height);
    let mut y = MARGIN + HEADER;
    for group in groups {
        group.draw(&mut svg, y);
        y += height_of(group);
    }
    svg.end()
}

impl Group {
    fn draw(&self, svg: &mut Svg, mut y: f64) {
        let ends = |bar: &Bar| {
            let range = bar.range.map_or(bar.value, |(_, most)| most);
            bar.value.max(range).max(bar.budget.map_or(0.0, |(budget, _)| budget))
        };
        let most = self.bars.iter().map(ends).filter(|v| v.is_finite()).fold(0.0, f64::max);
        let left = MARGIN + NAMES;
        let room = WIDTH - MARGIN - VALUES - left;
        let place = |value: f64| if most > 0.0 { left + (value / most).clamp(0.0, 1.0) * room } else { left };
        svg.text(MARGIN, y + 14.0, "start", 14.0, INK, "600", &self.title);
        svg.line(MARGIN, y + 21.0, WIDTH - MARGIN, y + 21.0, GRID);
        y += HEADING;
        for bar in &self.bars {
            bar.draw(svg, y, left, &place);
            y += STEP;
        }
    }
}

impl Bar {
    fn draw(&self, svg: &mut Svg, y: f64, left: f64, place: &dyn Fn(f64) -> f64) {
        let middle = y + STEP / 2.0;
        let (top, base) = (middle - THICK / 2.0, middle + 4.0);
        svg.text(left - 10.0, base, "end", 12.0, INK, "400", &shortened(&self.name));
        let is_missed = self.budget.is_some_and(|(_, is_kept)| !is_kept);
        let colour = if is_missed { Colour::Orange } else { Colour::Blue };
        let (width, hex) = ((place(self.value) - left).max(1.0), colour.hex());
        svg.raw(&format!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{THICK}\" rx=\"2\" fill=\"{hex}\"/>\n"
        ));
        let mut end = left + width;
        if let Some((least, most)) = self.range {
            let (from, to) = (place(least), place(most));
            svg.line(from, middle, to, middle, INK);
            svg.line(from, top, from, top + THICK, INK);
            svg.line(to, top, to, top + THICK, INK);
            end = end.max(to);
        }
        if let Some((budget, _)) = self.budget {
            let at = place(budget);
            svg.raw(&format!(
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"2.5\"/>\n",
                top - 4.0,
                top + THICK + 4.0,
                Colour::Red.hex()
            ));
            // The value does not stand on the mark.
            end = if at + 4.0 > end { at } else { end };
        }
        svg.text(end + 7.0, base, "start", 12.0, FAINT_INK, "400", &self.text);
    }
}

/// A name that fits beside its bar.
fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(LETTERS - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64, budget: Option<(f64, bool)>) -> Bar {
        Bar { name: name.to_owned(), value, text: format!("{value}"), range: Some((value * 0.9, value * 1.1)), budget }
    }

    #[test]
    fn bars_are_well_formed_whatever_they_are_called() {
        let bars = vec![
            bar("a <b> & \"c\"", 10.0, Some((20.0, true))),
            bar(&"long ".repeat(40), 5.0, Some((4.0, false))),
            bar("nothing", 0.0, None),
        ];
        let svg = to_svg("title & all", "how", &[Group { title: "ms".to_owned(), bars }]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let filled = |hex| document.descendants().filter(|node| node.attribute("fill") == Some(hex)).count();
        assert_eq!((filled(Colour::Blue.hex()), filled(Colour::Orange.hex())), (2, 1), "a missed budget stands out");
        assert!(svg.contains('…') && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn the_longest_bar_ends_where_its_value_still_fits() {
        let svg = to_svg("t", "s", &[Group { title: "s".to_owned(), bars: vec![bar("x", 3.0, Some((1e9, false)))] }]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let right = |node: roxmltree::Node<'_, '_>| node.attribute("x2").and_then(|x| x.parse::<f64>().ok());
        let mark = document.descendants().filter(|node| node.attribute("stroke-width") == Some("2.5")).find_map(right);
        assert!(mark.is_some_and(|x| x <= WIDTH - MARGIN - VALUES), "{mark:?}");
    }
}
