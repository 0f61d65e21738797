//! Paths of containers, which are text: nobody looks at a file.

/// `path.Clean` of Go, for absolute paths: no empty, `.` or `..` parts, no slash at the end.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
