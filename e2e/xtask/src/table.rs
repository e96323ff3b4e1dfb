//! Lays out rows of words as columns for a terminal.

/// The rows below their header, each column as wide as its widest word.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:<width$}"));
        let cells = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", cells.trim_end())
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [
            ["gpu-0".to_owned(), "NVIDIA H100".to_owned()],
            ["gpu-10".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["DEVICE", "PRODUCT"], &rows),
            "DEVICE  PRODUCT\ngpu-0   NVIDIA H100\ngpu-10\n"
        );
    }
}
