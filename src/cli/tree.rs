//! `moss images --tree`: as docker 28 draws it.
//!
//! Docker draws an image's platforms below its names where the engine keeps several of one image.
//! This one keeps one, as dockerd with its graph drivers does, so there are names, and details
//! beside the last of them. Colours are for terminals alone.

use crate::api::image::Summary;

use super::table::{ellipsis, short, size};

/// The columns right of the names: heading, width, and whether it is aligned right.
const COLUMNS: [(&str, usize, bool); 4] = [
    ("ID", 12, false),
    ("DISK USAGE", 10, true),
    ("CONTENT SIZE", 12, true),
    ("EXTRA", 5, false),
];
const SPACING: usize = 3;
/// Least width of the names; columns that leave less are left out.
const NAMES_LEAST: usize = 12;
const WARNING: &str = "WARNING: This is an experimental feature. The output may change and \
                       shouldn't be depended on.";

const TITLE: &str = "\x1b[39m\x1b[1m";
const NAME: &str = "\x1b[34m\x1b[1m";
const DETAIL: &str = "\x1b[39m";
const UNTAGGED: &str = "\x1b[39m\x1b[2m";
const CAUTION: &str = "\x1b[93m";

/// Draws images, the newest first. `terminal` is the width of the one that they are drawn on.
pub fn draw(images: &[Summary], terminal: Option<usize>) -> String {
    let fancy = terminal.is_some();
    let width = terminal.unwrap_or(80).max(20);
    let paint = |colour: &str, text: &str| match fancy {
        true => format!("{colour}{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let cell = |colour: &str, text: &str, width: usize, right: bool| {
        let (text, gap) = match width.checked_sub(text.chars().count()) {
            Some(gap) => (text.to_owned(), " ".repeat(gap)),
            None => (ellipsis(text, width), String::new()),
        };
        match right {
            true => gap + &paint(colour, &text),
            false => paint(colour, &text) + &gap,
        }
    };
    let mut left = width;
    let columns: Vec<_> = COLUMNS
        .iter()
        .take_while(|(_, width, _)| {
            let rest = left.checked_sub(width + SPACING);
            left = rest.unwrap_or(left);
            rest.is_some_and(|rest| rest >= NAMES_LEAST)
        })
        .collect();
    let taken: usize = columns.iter().map(|(_, width, _)| width + SPACING).sum();
    let names = images.iter().flat_map(|image| &image.repo_tags);
    let widest = names.map(String::len).max().unwrap_or(0);
    let names_width = (width - taken).min(widest.max("IMAGE".len()));
    let gap = " ".repeat(SPACING);

    let mut out = paint(CAUTION, WARNING) + "\n" + &legend(width, fancy) + "\n\n";
    out += &cell(TITLE, "IMAGE", names_width, false);
    for (title, width, right) in &columns {
        out += &gap;
        out += &cell(TITLE, title, *width, *right);
    }
    out.push('\n');
    let mut images: Vec<&Summary> = images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    for image in images {
        let mut names: Vec<&String> = image.repo_tags.iter().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        match names.split_last() {
            None => out += &cell(UNTAGGED, "<untagged>", names_width, false),
            Some((last, others)) => {
                for name in others {
                    let name =
                        terminal.map_or_else(|| (*name).clone(), |most| ellipsis(name, most));
                    out += &paint(NAME, &name);
                    out.push('\n');
                }
                out += &cell(NAME, last, names_width, false);
            }
        }
        let details = [short(&image.id), &size(image.size), &size(0), ""];
        for ((_, width, right), text) in columns.iter().zip(details) {
            out += &gap;
            out += &match text {
                "" => " ".repeat(*width),
                text => cell(DETAIL, text, *width, *right),
            };
        }
        out.push('\n');
    }
    out
}

/// What the letters mean, at the right.
fn legend(width: usize, fancy: bool) -> String {
    let (text, length) = match fancy {
        true => (
            "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m \
             \x1b[38;5;0m\x1b[48;5;14m U \x1b[0m In Use ",
            "i Info →   U  In Use ".chars().count(),
        ),
        false => (" Info ->  U In Use ", " Info ->  U In Use ".len()),
    };
    " ".repeat(width.saturating_sub(length)) + text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(created: i64, tags: &[&str]) -> Summary {
        Summary {
            created,
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            size: 1_982_478,
            ..Summary::default()
        }
    }

    #[test]
    fn names_are_above_each_other_and_the_newest_image_is_first() {
        let images = [
            image(1, &["old:1"]),
            image(2, &["a:1", "longer:1"]),
            image(0, &[]),
        ];
        let drawn = draw(&images, None);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[1], format!("{} Info ->  U In Use ", " ".repeat(61)));
        assert_eq!(
            lines[3..],
            [
                "IMAGE      ID             DISK USAGE   CONTENT SIZE   EXTRA",
                "longer:1",
                "a:1        abababababab       1.98MB             0B        ",
                "old:1      abababababab       1.98MB             0B        ",
                "<untagg…   abababababab       1.98MB             0B        ",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_has_fewer_columns() {
        let drawn = draw(&[image(1, &["a-name-that-is-long:1"])], Some(30));
        let last = drawn.lines().last().unwrap_or_default();
        assert_eq!(
            last,
            "\x1b[34m\x1b[1ma-name-that-is…\x1b[0m   \x1b[39mabababababab\x1b[0m"
        );
    }
}
