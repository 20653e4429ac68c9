//! What a load came to, as a page that needs nothing beside itself.

use super::table;
use crate::load::Report;
use plotters::prelude::*;
use std::fmt::Write;

/// Size of a plot, pixels.
const SIZE: (u32, u32) = (880, 300);
/// Colours that are told apart on white, also by those who do not see red or green: Okabe and Ito, 2008.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(213, 94, 0)];

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:920px;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
pre{background:#f4f4f2;padding:1rem;overflow-x:auto;border-radius:6px;font-size:13px}
svg{max-width:100%;height:auto}
@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#16181b}pre{background:#22252a}svg{background:#fff;border-radius:6px}}";

/// A curve: its name and its points.
pub(in crate::cli) type Curve = (String, Vec<(f64, f64)>);

/// The page.
pub(super) fn html(report: &Report) -> String {
    let moments = &report.moments;
    let over_time = |name: &str, value: fn(&crate::load::Moment) -> f64| -> Curve {
        let points = moments.iter().filter(|moment| moment.answered > 0);
        (name.to_owned(), points.map(|moment| (moment.at_s, value(moment))).collect())
    };
    let latency = [
        over_time("p50", |moment| moment.p50_ms),
        over_time("p99", |moment| moment.p99_ms),
        over_time("greatest", |moment| moment.max_ms),
    ];
    let rates = [
        over_time("answers a second", |moment| moment.answered as f64 / moment.length_s),
        over_time("errors a second", |moment| moment.errors as f64 / moment.length_s),
    ];
    // The far end is the interesting one: halving what is left moves as far as the last halving did.
    let nines = |share: f64| -(1.0 - share.min(0.999_999)).log10();
    let quantiles: Vec<_> = report.percentiles.iter().map(|&(share, ms)| (nines(share), ms)).collect();
    let mut body = format!("<pre>{}</pre>\n", escape(&table::text(report)));
    // As many decimals as there are nines.
    let tick = |nines: &f64| format!("{:.*} %", nines.ceil() as usize, 100.0 * (1.0 - 10_f64.powf(-nines)));
    let seconds = |seconds: &f64| format!("{seconds:.1}");
    for (title, x, y, curves, label) in [
        ("Latency over time", "seconds", "ms", &latency[..], &seconds as &dyn Fn(&f64) -> String),
        ("Latency by share of the messages", "share", "ms", &[("latency".to_owned(), quantiles)][..], &tick),
        ("Throughput over time", "seconds", "a second", &rates[..], &seconds),
    ] {
        let _ = writeln!(body, "<h2>{title}</h2>\n{}", plot(title, (x, y), curves, label));
    }
    document(&format!("Load of {}", report.url), &body)
}

/// A whole page of that title and content.
pub(in crate::cli) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// Text as it stands in a page.
pub(in crate::cli) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Curves as an SVG with a title for those who do not see it.
pub(in crate::cli) fn plot(
    title: &str,
    (x, y): (&str, &str),
    curves: &[Curve],
    x_label: &dyn Fn(&f64) -> String,
) -> String {
    let mut svg = String::new();
    if let Err(error) = draw(&mut svg, (x, y), curves, x_label) {
        return format!("<p>This plot could not be drawn: {}</p>", escape(&error.to_string()));
    }
    svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(title)), 1)
}

fn draw(
    svg: &mut String,
    (x, y): (&str, &str),
    curves: &[Curve],
    x_label: &dyn Fn(&f64) -> String,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|(_, points)| points.iter());
    let (x_min, x_max) =
        points().fold((f64::MAX, f64::MIN), |(min, max), point| (min.min(point.0), max.max(point.0)));
    let y_max = points().fold(0.0_f64, |max, point| max.max(point.1));
    if x_min >= x_max {
        return Err("there are too few points".into());
    }
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x_min..x_max, 0.0..(y_max * 1.08).max(1e-3))?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(x_label)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for (number, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(())
}
