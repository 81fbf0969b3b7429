//! Ratings as tables, as a chart, and as a report in both languages.

use std::collections::HashMap;

use danlu_report::{IntervalChart, IntervalRow, Report, Table, Text};

use super::{Pair, Ratings};

/// What stands in a matrix of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// How often the row's model beat the column's, ties being half a win.
    WinRate,
    /// The same, ties being left out.
    WinRateWithoutTies,
    /// Votes on both.
    Votes,
}

/// The matrices of a report with their headings in Chinese and English.
const MATRICES: [(Cell, (&str, &str)); 3] = [
    (
        Cell::WinRate,
        ("行胜列的比例，平局计半胜", "How often the row beat the column, a tie being half a win"),
    ),
    (Cell::WinRateWithoutTies, ("行胜列的比例，不计平局", "How often the row beat the column, without ties")),
    (Cell::Votes, ("每对模型的票数", "Votes on each pair")),
];

impl Ratings {
    /// A row for each model, from the best on; the header is that of [`Self::HEADER`] or its translation.
    #[must_use]
    pub fn table(&self, header: [&str; 10]) -> Table {
        let has_groups = self.groups > 1;
        let mut table = Table::new(header.into_iter().take(if has_groups { 10 } else { 9 }));
        for rating in &self.models {
            let mut cells = vec![
                rating.rank.to_string(),
                rating.model.clone(),
                format!("{:.1}", rating.rating),
                format!("{:.1} – {:.1}", rating.low, rating.high),
                format!("{:.1}", rating.elo),
                rating.votes.to_string(),
                rating.wins.to_string(),
                rating.ties.to_string(),
                percent(rating.win_rate),
            ];
            if has_groups {
                cells.push(rating.group.to_string());
            }
            table.row(cells);
        }
        table
    }

    /// What [`table`](Self::table) calls its columns in English; the last one is there only for more than one group.
    pub const HEADER: [&str; 10] =
        ["rank", "model", "rating", "95 % interval", "Elo", "votes", "wins", "ties", "win rate", "group"];
    const HEADER_ZH: [&str; 10] =
        ["名次", "模型", "评分", "95 % 区间", "Elo", "票数", "胜", "平", "胜率", "组"];

    /// The models against each other; empty where two never met.
    #[must_use]
    pub fn matrix(&self, corner: &str, cell: Cell) -> Table {
        let names = self.models.iter().map(|rating| rating.model.as_str());
        let mut table = Table::new(std::iter::once(corner).chain(names.clone()));
        let text = |pair: &Pair, is_swapped: bool| {
            let share = |share: f64| percent(if is_swapped { 1.0 - share } else { share });
            match cell {
                Cell::WinRate => share(pair.win_rate),
                Cell::WinRateWithoutTies => pair.win_rate_without_ties.map_or_else(String::new, share),
                Cell::Votes => pair.votes.to_string(),
            }
        };
        let met: HashMap<(&str, &str), &Pair> =
            self.pairs.iter().map(|pair| ((pair.a.as_str(), pair.b.as_str()), pair)).collect();
        for row in names.clone() {
            let cells =
                names.clone().map(|column| match (met.get(&(row, column)), met.get(&(column, row))) {
                    (Some(pair), _) => text(pair, false),
                    (_, Some(pair)) => text(pair, true),
                    _ => String::new(),
                });
            table.row(std::iter::once(row.to_owned()).chain(cells));
        }
        table
    }

    /// Ratings with their intervals.
    #[must_use]
    pub fn chart(&self, title: &str, x_label: &str) -> IntervalChart {
        let row = |rating: &super::Rating| IntervalRow {
            name: rating.model.clone(),
            value: rating.rating,
            low: rating.low,
            high: rating.high,
        };
        IntervalChart {
            title: title.into(),
            x_label: x_label.into(),
            rows: self.models.iter().map(row).collect(),
        }
    }

    /// How the numbers came about.
    #[must_use]
    pub fn method(&self) -> Text {
        let anchor = self.anchor.as_ref();
        let (zh_zero, en_zero) = match anchor {
            Some(anchor) => (format!("以 {anchor} 定位"), format!("with {anchor} as the anchor")),
            None => ("平均为 1000".to_owned(), "with a mean of 1000".to_owned()),
        };
        let (zh_prior, en_prior) = match self.prior > 0.0 {
            true => (
                format!("每个模型另计 {} 场与假想的平均模型的平局。", self.prior),
                format!(" Each model was given {} ties with an imagined average model.", self.prior),
            ),
            false => (String::new(), String::new()),
        };
        Text::new(
            format!(
                "评分：Bradley–Terry 模型的最大似然估计，平局各计半胜，400 分对应 10 比 1 的胜负比，{zh_zero}。区间：对投票有放回重抽 {} \
                 次（种子 {}）所得评分的中间 95 %。名次：1 加上区间整个高于本模型的模型数。Elo 按投票顺序逐票计算（K = 4）。{zh_prior}",
                self.rounds, self.seed
            ),
            format!(
                "Rating: Bradley–Terry by maximum likelihood, a tie being half a win for each, 400 points for odds of 10 to 1, \
                 {en_zero}. Interval: the middle 95 % of the ratings of {} draws of the votes with replacement (seed {}). Rank: 1 \
                 and the number of models whose whole interval lies above. Elo follows the order of the votes (K = 4).{en_prior}",
                self.rounds, self.seed
            ),
        )
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = Report::new(Text::new("模型对战评分", "Ratings of models from votes"));
        report.figures([
            (self.models.len().to_string(), Text::new("模型", "models")),
            (self.votes.to_string(), Text::new("票", "votes")),
            (self.ties.to_string(), Text::new("平局", "ties")),
        ]);
        report.paragraph(Text::new(
            format!("共 {} 票，其中平局 {} 票。", self.votes, self.ties),
            format!("{} votes, {} of them ties.", self.votes, self.ties),
        ));
        report.table(self.table(Self::HEADER_ZH), self.table(Self::HEADER));
        report.interval_chart(
            self.chart("评分与 95 % 区间", "分"),
            self.chart("Ratings with 95 % intervals", "points"),
        );
        for (cell, (zh, en)) in MATRICES {
            report.heading(Text::new(zh, en)).table(self.matrix("模型", cell), self.matrix("model", cell));
        }
        report.heading(Text::new("方法", "Method")).paragraph(self.method());
        let comment =
            format!("{} votes, {} ties, {} draws, seed {}", self.votes, self.ties, self.rounds, self.seed);
        report.paper(&comment, &self.table(Self::HEADER), false);
        report
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
