//! Reads a symmetric matrix from a Matrix Market file into compressed sparse rows.

use anyhow::{Context, Result, ensure};

/// A square matrix in compressed sparse rows; row `r` has the entries `row_ptr[r]..row_ptr[r + 1]`.
pub(crate) struct Csr {
    pub(crate) row_ptr: Vec<u32>,
    pub(crate) col_idx: Vec<u32>,
    pub(crate) values: Vec<f32>,
}

impl Csr {
    /// Rows, and columns.
    pub(crate) fn size(&self) -> usize {
        self.row_ptr.len() - 1
    }

    /// The sum of each row.
    pub(crate) fn row_sums(&self) -> Vec<f32> {
        let rows = self.row_ptr.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
        rows.map(|entries| self.values[entries].iter().sum()).collect()
    }
}

/// Reads `coordinate real symmetric` (or integer): of each pair of entries (i, j) and (j, i) the file has one.
pub(crate) fn read(text: &str) -> Result<Csr> {
    let (head, rest) = text.split_once('\n').context("an empty file")?;
    let words: Vec<String> = head.split_whitespace().map(str::to_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let known = matches!(
        words[..],
        ["%%matrixmarket", "matrix", "coordinate", "real" | "integer", "symmetric"]
    );
    ensure!(known, "wanted `%%MatrixMarket matrix coordinate real symmetric`, not `{head}`");

    let mut lines = rest.lines().filter(|line| !line.starts_with('%') && !line.trim().is_empty());
    let size = lines.next().context("no line with the size")?;
    let [rows, columns, entries] = numbers(size)?;
    ensure!(rows == columns, "{rows} rows, but {columns} columns");
    let mut matrix = vec![Vec::new(); rows];
    let mut count = 0;
    for line in lines {
        let (place, value) =
            line.trim().rsplit_once(char::is_whitespace).context("a short line")?;
        let [i, j] = numbers(place)?;
        let value: f32 = value.parse().with_context(|| format!("no number: `{value}`"))?;
        let inside = 1..=rows;
        ensure!(inside.contains(&i) && inside.contains(&j), "outside the matrix: `{line}`");
        matrix[i - 1].push((j as u32 - 1, value));
        if i != j {
            matrix[j - 1].push((i as u32 - 1, value));
        }
        count += 1;
    }
    ensure!(count == entries, "{count} entries, where the file promises {entries}");

    let ends = matrix.iter().scan(0, |end, row| {
        *end += row.len() as u32;
        Some(*end)
    });
    let row_ptr = [0].into_iter().chain(ends).collect();
    let (col_idx, values) = matrix.into_iter().flatten().unzip();
    Ok(Csr { row_ptr, col_idx, values })
}

/// Exactly as many whole numbers as are asked for.
fn numbers<const N: usize>(line: &str) -> Result<[usize; N]> {
    let parsed: Result<Vec<usize>, _> = line.split_whitespace().map(str::parse).collect();
    let wrong = || format!("wanted {N} whole numbers, not `{line}`");
    parsed.ok().and_then(|numbers| numbers.try_into().ok()).with_context(wrong)
}
