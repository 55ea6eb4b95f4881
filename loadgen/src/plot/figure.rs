//! Figures as SVG: rows of panels with axes, grid and legend, self-contained, drawn by hand. No fonts, scripts or
//! files are needed beside it.

use super::scale::{Kind, Scale};
use std::fmt::Write;

/// Width of a figure in pixels.
pub(super) const WIDTH: f64 = 960.0;
/// Space around everything.
pub(super) const MARGIN: f64 = 24.0;
/// Height of title and subtitle.
pub(super) const HEADER: f64 = 64.0;
/// Height of a row of panels.
const ROW: f64 = 310.0;
/// Space between two panels of a row.
const GAP: f64 = 28.0;
/// Space within a panel around its plot: title and legend above, ticks and label elsewhere.
const INSET: Inset = Inset { top: 54.0, right: 14.0, bottom: 52.0, left: 68.0 };

/// Most points of a line that are marked.
const MARKED_POINTS: usize = 12;

/// Colours of a figure. A page that shows it may replace them by its own.
pub const INK: &str = "#1c2430";
/// Of what is less important.
pub const FAINT_INK: &str = "#566070";
/// Of lines behind everything.
pub const GRID: &str = "#e3e7ec";
/// Of the paper.
pub const PAPER: &str = "#ffffff";
const FONT: &str = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\"";

struct Inset {
    top: f64,
    right: f64,
    bottom: f64,
    left: f64,
}

/// A series' colour. All stand out from white by more than 4.5 to 1, and from each other in lightness or hue to
/// the colour-blind too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// The first choice.
    Blue,
    /// The second.
    Orange,
    /// The third.
    Green,
    /// For failures.
    Red,
}

impl Colour {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Blue, Self::Orange, Self::Green, Self::Red];

    /// It as `#rrggbb`.
    #[must_use]
    pub const fn hex(self) -> &'static str {
        match self {
            Self::Blue => "#1157a8",
            Self::Orange => "#b4530a",
            Self::Green => "#127a5b",
            Self::Red => "#c0182f",
        }
    }
}

/// A line in a panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// Whether the area under it is tinted. Over names: whether its points are levels to be kept, drawn as dashes.
    pub filled: bool,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A plot with two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// What the horizontal axis counts, with its unit.
    pub x_label: String,
    /// How it counts.
    pub x_kind: Kind,
    /// What the vertical axis counts, with its unit.
    pub y_label: String,
    /// How it counts.
    pub y_kind: Kind,
    /// The lines. A legend is drawn if there are several.
    pub series: Vec<Series>,
}

/// A figure: panels in rows that fill the width.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is about.
    pub title: String,
    /// How it was measured.
    pub subtitle: String,
    /// Rows of panels.
    pub rows: Vec<Vec<Panel>>,
}

/// A rectangle.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Figure {
    /// The figure as an SVG document.
    #[must_use]
    pub fn to_svg(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "few rows")]
        let height = MARGIN + HEADER + ROW * self.rows.len() as f64 + MARGIN / 2.0;
        let mut svg = Svg::begin(&self.title, &self.subtitle, height);
        let mut y = MARGIN + HEADER;
        for row in &self.rows {
            #[expect(clippy::cast_precision_loss, reason = "few panels")]
            let n = row.len().max(1) as f64;
            let width = (WIDTH - 2.0 * MARGIN - GAP * (n - 1.0)) / n;
            let mut x = MARGIN;
            for panel in row {
                panel.draw(&mut svg, Area { x, y, width, height: ROW });
                x += width + GAP;
            }
            y += ROW;
        }
        svg.end()
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, area: Area) {
        let plot = Area {
            x: area.x + INSET.left,
            y: area.y + INSET.top,
            width: area.width - INSET.left - INSET.right,
            height: area.height - INSET.top - INSET.bottom,
        };
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_scale = Scale::over(self.x_kind, points().map(|&(x, _)| x));
        let y_scale = Scale::over(self.y_kind, points().map(|&(_, y)| y));
        svg.text(area.x, area.y + 16.0, "start", 15.0, INK, "600", &self.title);
        self.draw_axes(svg, area, plot, &x_scale, &y_scale);
        for series in &self.series {
            match self.x_kind {
                Kind::Names(names) => series.draw_by_name(svg, plot, names.len(), &x_scale, &y_scale),
                _ => series.draw(svg, plot, &x_scale, &y_scale),
            }
        }
        if self.series.len() > 1 {
            self.draw_legend(svg, area);
        }
    }

    fn draw_axes(&self, svg: &mut Svg, area: Area, plot: Area, x_scale: &Scale, y_scale: &Scale) {
        let bottom = plot.y + plot.height;
        for tick in y_scale.ticks() {
            let y = bottom - tick.at * plot.height;
            svg.line(plot.x, y, plot.x + plot.width, y, GRID);
            svg.text(plot.x - 8.0, y + 4.0, "end", 12.0, FAINT_INK, "400", &tick.label);
        }
        for tick in x_scale.ticks() {
            let x = plot.x + tick.at * plot.width;
            svg.line(x, bottom, x, bottom + 5.0, FAINT_INK);
            svg.text(x, bottom + 19.0, "middle", 12.0, FAINT_INK, "400", &tick.label);
        }
        svg.line(plot.x, bottom, plot.x + plot.width, bottom, FAINT_INK);
        let middle = plot.x + plot.width / 2.0;
        svg.text(middle, bottom + 38.0, "middle", 12.0, INK, "400", &self.x_label);
        svg.text(area.x, area.y + 36.0, "start", 12.0, INK, "400", &self.y_label);
    }

    /// Names and colours of the lines, right-aligned beside the title.
    fn draw_legend(&self, svg: &mut Svg, area: Area) {
        let mut x = area.x + area.width - INSET.right;
        for series in self.series.iter().rev() {
            svg.text(x, area.y + 36.0, "end", 12.0, INK, "400", &series.name);
            // Without a font's measures: about 7 pixels a letter.
            #[expect(clippy::cast_precision_loss, reason = "short names")]
            let width = series.name.chars().count() as f64 * 7.0;
            x -= width + 8.0;
            svg.raw(&format!(
                "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{}\" stroke-width=\"3\"/>\n",
                x - 18.0,
                x,
                series.colour.hex(),
                y = area.y + 32.0,
            ));
            x -= 18.0 + 16.0;
        }
    }
}

impl Series {
    /// A line.
    #[must_use]
    pub fn line(name: impl Into<String>, colour: Colour, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self { name: name.into(), colour, filled: false, points: points.into_iter().collect() }
    }

    /// Draws points that have no order: nothing lies between them.
    fn draw_by_name(&self, svg: &mut Svg, plot: Area, names: usize, x_scale: &Scale, y_scale: &Scale) {
        #[expect(clippy::cast_precision_loss, reason = "a few names")]
        let half = plot.width / names.max(1) as f64 * 0.3;
        let hex = self.colour.hex();
        for &(x, y) in &self.points {
            let (x, y) = (plot.x + x_scale.place(x) * plot.width, plot.y + plot.height * (1.0 - y_scale.place(y)));
            svg.raw(&if self.filled {
                format!(
                    "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{hex}\" stroke-width=\"2\"/>\n",
                    x - half,
                    x + half
                )
            } else {
                format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{hex}\"/>\n")
            });
        }
    }

    fn draw(&self, svg: &mut Svg, plot: Area, x_scale: &Scale, y_scale: &Scale) {
        let bottom = plot.y + plot.height;
        let mut path = String::with_capacity(self.points.len() * 12);
        let mut ends = None;
        let place =
            |(x, y): (f64, f64)| (plot.x + x_scale.place(x) * plot.width, bottom - y_scale.place(y) * plot.height);
        for (i, &point) in self.points.iter().enumerate() {
            let (x, y) = place(point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
            ends = Some((ends.map_or(x, |(first, _)| first), x));
        }
        let Some((first, last)) = ends else { return };
        let hex = self.colour.hex();
        if self.filled {
            svg.raw(&format!(
                "<path d=\"{path}L{last:.1} {bottom:.1}L{first:.1} {bottom:.1}Z\" fill=\"{hex}\" fill-opacity=\"0.12\"/>\n"
            ));
        }
        svg.raw(&format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{hex}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\n"
        ));
        // Few points are measurements of their own: they are to be told from what lies between them.
        for &point in self.points.iter().filter(|_| self.points.len() <= MARKED_POINTS) {
            let (x, y) = place(point);
            svg.raw(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{hex}\"/>\n"));
        }
    }
}

/// A document under construction.
pub(super) struct Svg(String);

impl Svg {
    /// A document of that height with its heading.
    pub(super) fn begin(title: &str, subtitle: &str, height: f64) -> Self {
        let mut svg = Self(String::with_capacity(32 * 1024));
        svg.raw(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" {FONT}>\n"
        ));
        svg.raw(&format!("<title>{}</title>\n<desc>{}</desc>\n", escape(title), escape(subtitle)));
        svg.raw(&format!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"{PAPER}\"/>\n"));
        svg.text(MARGIN, MARGIN + 20.0, "start", 20.0, INK, "600", title);
        svg.text(MARGIN, MARGIN + 42.0, "start", 13.0, FAINT_INK, "400", subtitle);
        svg
    }

    /// The whole document.
    pub(super) fn end(mut self) -> String {
        self.raw("</svg>\n");
        self.0
    }

    pub(super) fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    #[expect(clippy::too_many_arguments, reason = "one attribute each")]
    pub(super) fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, fill: &str, weight: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             fill=\"{fill}\">{}</text>",
            escape(text)
        );
    }

    pub(super) fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, stroke: &str) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" stroke-width=\"1\"/>"
        );
    }
}

/// Text as it may stand in a document. Control characters, which may not, go.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}
