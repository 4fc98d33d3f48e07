//! Figures: samples taken in turns, their medians and ranges.

use serde_json::{Value, json};
use std::fmt;

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// No samples.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// One more sample.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Least, median and greatest sample; zeros when there is none.
    pub fn range(&self) -> (f64, f64, f64) {
        let sorted = self.sorted();
        let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) && middle > 0 {
            (at(middle - 1) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        (at(0), median, at(sorted.len().saturating_sub(1)))
    }

    /// Each sample by the baseline's of the same turn.
    fn over(&self, baseline: &Series) -> Series {
        Series(self.0.iter().zip(&baseline.0).map(|(ours, base)| ours / base).collect())
    }

    fn to_json(&self) -> Value {
        let (min, median, max) = self.range();
        json!({ "median": median, "min": min, "max": max, "samples": self.0 })
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub ours: Series,
    pub baseline: Option<Series>,
    /// What the project wants: of the ratio where there is a baseline, else of the figure itself.
    pub goal: Option<&'static str>,
}

/// Everything measured.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Figure>);

impl Report {
    /// A figure with its baseline.
    pub fn compared(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        goal: Option<&'static str>,
        ours: Series,
        baseline: &Series,
    ) {
        self.0.push(Figure { name: name.into(), unit, ours, baseline: Some(baseline.clone()), goal });
    }

    /// A figure by itself.
    pub fn alone(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        goal: Option<&'static str>,
        ours: Series,
    ) {
        self.0.push(Figure { name: name.into(), unit, ours, baseline: None, goal });
    }

    /// The whole report as one object.
    pub fn to_json(&self) -> Value {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let figures: Vec<Value> = self
            .0
            .iter()
            .map(|f| {
                json!({
                    "name": f.name,
                    "unit": f.unit,
                    "ours": f.ours.to_json(),
                    "baseline": f.baseline.as_ref().map(Series::to_json),
                    "ratio": f.baseline.as_ref().map(|b| f.ours.over(b).to_json()),
                    "goal": f.goal,
                })
            })
            .collect();
        json!({ "cpus": cpus, "figures": figures })
    }
}

fn number(x: f64) -> String {
    match x.abs() {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

fn spread(series: &Series) -> String {
    let (min, median, max) = series.range();
    format!("{} ({}–{})", number(median), number(min), number(max))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Medians (least–greatest). A ratio is the median of the ratios of the turns.\n")?;
        writeln!(f, "| figure | unit | ours | baseline | ratio | goal |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let (baseline, ratio) = match &row.baseline {
                Some(b) => (spread(b), spread(&row.ours.over(b))),
                None => ("".into(), "".into()),
            };
            let goal = row.goal.unwrap_or("");
            let (name, unit, ours) = (&row.name, row.unit, spread(&row.ours));
            writeln!(f, "| {name} | {unit} | {ours} | {baseline} | {ratio} | {goal} |")?;
        }
        Ok(())
    }
}
