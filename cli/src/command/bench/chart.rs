//! The result as a picture: for each step a bar for everybody, as long as its seconds are beside the slowest's. SVG, by hand:
//! text and rectangles need no library.
use std::fmt::Write;

use super::report::{Report, Step};

const LEFT: f64 = 190.0;
const BAR: f64 = 420.0;
const WIDTH: f64 = LEFT + BAR + 150.0;
const LINE: f64 = 18.0;
const COLOURS: [&str; 6] = ["#1f6feb", "#b0b7c0", "#8d96a0", "#d0a36c", "#9a7fc0", "#7fb09a"];

pub(super) fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 28.0;
    for set in &report.sets {
        text(&mut body, 10.0, y, "bold", &set.data);
        y += LINE;
        for step in &set.steps {
            y = bars(&mut body, y, step, report);
        }
        y += LINE;
    }
    let about = format!(
        "seconds, medians of {} rounds, least to most as a line; {} cores; load {:.1} to {:.1}",
        report.rounds, report.cores, report.load[0], report.load[1]
    );
    text(&mut body, 10.0, y, "normal", &about);
    let height = y + LINE;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn bars(body: &mut String, mut y: f64, step: &Step, report: &Report) -> f64 {
    let slowest = step.who.iter().map(|who| who.seconds.most).fold(1e-9, f64::max);
    for (number, who) in step.who.iter().enumerate() {
        let label = if number == 0 { format!("{}: {}", step.name, who.name) } else { who.name.to_owned() };
        let place = report.peers.iter().position(|peer| peer.name == who.name).map_or(0, |place| place + 1);
        let length = |seconds: f64| BAR * seconds / slowest;
        let colour = COLOURS[place % COLOURS.len()];
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>",
            LEFT - 8.0,
            y + 10.0,
            escaped(&label),
            y,
            length(who.seconds.median).max(0.5),
        );
        let _ = writeln!(
            body,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#24292f\"/>",
            LEFT + length(who.seconds.least),
            LEFT + length(who.seconds.most),
            y + 6.0,
            y + 6.0,
        );
        let faster = who.faster.map_or_else(String::new, |faster| format!(" ({:.1}x)", faster.median));
        let seconds = format!("{:.2} s{faster}", who.seconds.median);
        text(body, LEFT + BAR + 8.0, y + 10.0, "normal", &seconds);
        y += LINE;
    }
    y + LINE / 3.0
}

fn text(body: &mut String, x: f64, y: f64, weight: &str, what: &str) {
    let what = escaped(what);
    let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"{weight}\">{what}</text>");
}

/// Also names of directories, which may be anything.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::report::{Cost, Installed, OURS, Set};
    use super::*;

    #[test]
    fn it_is_drawn_whatever_the_data_is_called() {
        let cost = |seconds| vec![Cost { seconds, ..Cost::default() }];
        let step = Step::new("cold", 1, vec![(OURS, cost(1.0)), ("restic", cost(4.0))], &[]);
        let report = Report {
            version: "0",
            cores: 2,
            rounds: 1,
            store: String::new(),
            load: [0.0; 2],
            peers: vec![Installed { name: "restic", version: String::new() }],
            skipped: Vec::new(),
            agent_memory_bound: 0,
            agent_memory: 0,
            sets: vec![Set {
                data: "/a<b>&\"c".into(),
                files: 1,
                bytes: 1,
                limits: Vec::new(),
                steps: vec![step],
            }],
        };
        let svg = svg(&report);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("/a&lt;b&gt;&amp;&quot;c") && svg.contains("4.00 s (4.0x)"), "{svg}");
        // Ours is a quarter as long as the slowest's.
        assert!(svg.contains("width=\"105.0\"") && svg.contains("width=\"420.0\""), "{svg}");
    }
}
