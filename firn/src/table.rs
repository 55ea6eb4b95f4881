//! Tables for people.

use serde_json::Value;

/// Lays out rows in columns; the first row is the heading.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let width_of = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let nr_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..nr_columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lays out a JSON object, one field a line; lists of objects become tables.
#[must_use]
pub fn fields(value: &Value) -> String {
    let mut rows = Vec::new();
    let mut tables = String::new();
    flatten("", value, &mut rows, &mut tables);
    format!("{}{tables}", columns(&rows))
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>, tables: &mut String) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, rows, tables);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            tables.push_str(&format!("\n{path}\n{}", records(items)));
        }
        Value::Array(items) => rows.push(vec![path.into(), items.iter().map(cell).collect::<Vec<_>>().join(" ")]),
        scalar => rows.push(vec![path.into(), cell(scalar)]),
    }
}

fn records(items: &[Value]) -> String {
    let mut keys: Vec<&String> = Vec::new();
    for key in items.iter().filter_map(Value::as_object).flat_map(|object| object.keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut rows = vec![keys.iter().map(|key| (*key).clone()).collect()];
    rows.extend(items.iter().map(|item| keys.iter().map(|key| item.get(*key).map(cell).unwrap_or_default()).collect()));
    columns(&rows)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".into(), "VMS".into()], vec!["a".into(), "1000".into()], vec!["longer".into()]];
        assert_eq!(columns(&rows), "NAME    VMS\na       1000\nlonger\n");
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn json_becomes_lines_and_tables() {
        let value =
            serde_json::json!({"vms": 3, "net": {"in": 1}, "list": [1, 2], "services": [{"name": "web", "vms": 3}]});
        let text = fields(&value);
        assert!(
            text.contains("vms     3\n") && text.contains("net.in  1\n") && text.contains("list    1 2\n"),
            "{text}"
        );
        assert!(text.ends_with("\nservices\nname  vms\nweb   3\n"), "{text}");
    }
}
