//! Plots are well-formed SVG, with every mark inside the picture, whatever the figures are.

mod common;

use loadgen::plot::figure::{Colour, Figure, Panel, Series};
use loadgen::plot::scale::Kind;
use proptest::prelude::*;

/// Parses a plot, checks that all its coordinates are figures inside it, and returns its texts.
fn check(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).expect("well-formed XML");
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let size = |name: &str| root.attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (size("width"), size("height"));
    let inside = |value: &str, limit: f64| {
        let value: f64 = value.parse().unwrap_or(f64::NAN);
        assert!((0.0..=limit).contains(&value), "{value} outside 0 to {limit}");
    };
    for node in root.descendants() {
        for (names, limit) in [(["x", "x1", "x2"], width), (["y", "y1", "y2"], height)] {
            names.iter().filter_map(|name| node.attribute(*name)).for_each(|value| inside(value, limit));
        }
        for point in node.attribute("d").unwrap_or_default().split(['M', 'L', 'Z']).filter(|point| !point.is_empty()) {
            let (x, y) = point.split_once(' ').unwrap();
            inside(x, width);
            inside(y, height);
        }
    }
    let texts = root.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or_default().to_owned()).collect()
}

fn panel(kind: Kind, points: Vec<Vec<(f64, f64)>>) -> Panel {
    let colours = [Colour::Blue, Colour::Orange, Colour::Green, Colour::Red];
    let series = points.into_iter().zip(colours).map(|(points, colour)| Series {
        name: format!("{colour:?} & <co>"),
        colour,
        filled: true,
        points,
    });
    Panel {
        title: "A \"title\" with <marks> & \u{1} control".to_owned(),
        x_label: "share".to_owned(),
        x_kind: Kind::Nines,
        y_label: "y".to_owned(),
        y_kind: kind,
        series: series.collect(),
    }
}

proptest! {
    #[test]
    fn any_figures_make_a_well_formed_plot(
        kind in prop_oneof![Just(Kind::Linear), Just(Kind::Latency)],
        points in proptest::collection::vec(proptest::collection::vec((0.0f64..1.0, 0.0f64..1e10), 0..30), 0..4),
        title in ".{0,40}",
    ) {
        let panels = vec![panel(kind, points.clone()), panel(kind, points)];
        let figure = Figure { title, subtitle: "<&>".to_owned(), rows: vec![panels.clone(), panels[..1].to_vec()] };
        let texts = check(&figure.to_svg());
        prop_assert!(texts.iter().any(|text| text == "A \"title\" with <marks> &  control"));
    }
}

#[test]
fn the_plot_of_a_run_says_what_was_measured_with_units() {
    let servers = common::Servers::start(&[common::Behaviour::Good(0), common::Behaviour::Refuses]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plot.svg");
    let cases: [(&[&str], &[&str]); 2] = [
        (
            &["--requests", "600", "--targets", "all"],
            &["Throughput", "requests/s", "time, seconds", "Latency", "99", "failed", "connecting"],
        ),
        (&["--sweep", "--first-vm", "0"], &["First answers", "targets that have answered", "1 of 2 targets answered"]),
    ];
    for (arguments, wanted) in cases {
        servers.load(&[arguments, &["--svg", file.to_str().unwrap()]].concat());
        let texts = check(&std::fs::read_to_string(&file).unwrap());
        for part in wanted {
            assert!(texts.iter().any(|text| text == part), "{part} in {texts:?}");
        }
        assert!(texts.iter().any(|text| text.ends_with(" ms") || text.ends_with(" µs")), "a latency in {texts:?}");
    }
}
