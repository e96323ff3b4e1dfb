//! Lays out rows of words as columns: for a terminal, and in Markdown.

/// The rows below their header, each column as wide as its widest word.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: [String; N]| format!("{}\n", cells.join("  ").trim_end());
    padded(header, rows).map(line).collect()
}

/// The same as a table of Markdown, which is also fit for a terminal.
pub(crate) fn markdown<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let mut lines = padded(header, rows);
    let head = lines.next().into_iter();
    let rule = |cell: String| "-".repeat(cell.chars().count());
    let ruled = |head: [String; N]| [line(head.clone()), line(head.map(rule))].concat();
    head.map(ruled).chain(lines.map(line)).collect()
}

/// The header and the rows, with every cell as wide as its column.
fn padded<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
) -> impl Iterator<Item = [String; N]> {
    let header = header.map(str::to_owned);
    let all: Vec<_> = std::iter::once(header)
        .chain(rows.iter().cloned())
        .collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let pad = move |row: [String; N]| {
        std::array::from_fn(|column| format!("{:<width$}", row[column], width = widths[column]))
    };
    all.into_iter().map(pad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [[String; 2]; 2] {
        [
            ["gpu-0".to_owned(), "NVIDIA H100".to_owned()],
            ["gpu-10".to_owned(), String::new()],
        ]
    }

    #[test]
    fn columns_stand_below_each_other() {
        assert_eq!(
            table(["DEVICE", "PRODUCT"], &rows()),
            "DEVICE  PRODUCT\ngpu-0   NVIDIA H100\ngpu-10\n"
        );
    }

    #[test]
    fn a_table_of_markdown_has_a_rule_below_its_head() {
        let wanted = "\
| device | product     |
| ------ | ----------- |
| gpu-0  | NVIDIA H100 |
| gpu-10 |             |
";
        assert_eq!(markdown(["device", "product"], &rows()), wanted);
    }
}
