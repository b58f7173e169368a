//! Runs headless Chromium: the DOM of a page, its width, and screenshots.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The script that measures.
const MEASURE: &str = include_str!("measure.js");

/// A browser. Every call starts it again, with an empty profile.
pub struct Browser {
    dir: tempfile::TempDir,
}

/// The layout of a page at one width.
#[derive(Debug)]
pub struct Seen {
    /// The index of the page.
    pub page: usize,
    pub width: u32,
    /// Width of the window's content.
    pub scroll_width: u32,
    /// Width of the whole page, at least that of the window.
    pub height: u32,
    /// Elements that overflow their box or the window, for messages.
    pub outside: Vec<String>,
    /// Words that are broken over two lines.
    pub broken: Vec<String>,
}

/// A screenshot.
#[derive(Debug)]
pub struct Picture {
    pub size: (u32, u32),
    /// Red, green and blue of the first pixel, which shows only the background of the page.
    pub corner: [u8; 3],
}

impl Browser {
    pub fn new() -> Browser {
        Browser { dir: tempfile::tempdir().unwrap() }
    }

    /// The document as the browser parsed it.
    pub fn dom(&self, url: &str) -> String {
        self.run(&["--dump-dom", url])
    }

    /// Lays out each page at each of these widths, in one start. A window cannot be as narrow as a phone, but a frame
    /// can.
    pub fn measure(&self, pages: &[&str], widths: &[u32]) -> Vec<Seen> {
        let text = |page: &&str| {
            format!("<textarea hidden>\n{}</textarea>", page.replace('&', "&amp;").replace('"', "&quot;"))
        };
        let texts: String = pages.iter().map(text).collect();
        let wrapper = format!(
            "<!DOCTYPE html><meta charset=utf-8><body><pre id=seen></pre>{texts}\
             <script>const widths = {widths:?};\n{MEASURE}</script>"
        );
        let path = self.dir.path().join("wrapper.html");
        fs::write(&path, wrapper).unwrap();
        let dom = self.run(&["--dump-dom", &format!("file://{}", path.display())]);
        let seen = dom.split("<pre id=\"seen\">").nth(1).unwrap().split("</pre>").next().unwrap();
        let lines = |text: &str| text.split('\u{1f}').filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let seen: Vec<_> = seen
            .split_terminator('\u{1d}')
            .map(|frame| match frame.split('\u{1e}').collect::<Vec<_>>()[..] {
                [page, width, scroll_width, height, outside, broken] => Seen {
                    page: page.parse().unwrap(),
                    width: width.parse().unwrap(),
                    scroll_width: scroll_width.parse().unwrap(),
                    height: height.parse().unwrap(),
                    outside: lines(outside),
                    broken: lines(broken),
                },
                _ => panic!("not a measurement: {frame:?}"),
            })
            .collect();
        assert_eq!(seen.len(), pages.len() * widths.len(), "not every page was laid out: {seen:?}");
        seen
    }

    /// Takes a screenshot of a page, in the light or dark colour scheme.
    pub fn picture(&self, url: &str, width: u32, height: u32, light: bool) -> Picture {
        let path = self.dir.path().join("picture.png");
        let size = format!("--window-size={width},{height}");
        self.shoot(url, &path, &[&size, &format!("--blink-settings=preferredColorScheme={}", u8::from(light))]);
        let bytes = fs::read(&path).unwrap();
        // PNG, 11.2.2: the header begins with width and height.
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        Picture { size: (number(16), number(20)), corner: corner(&path) }
    }

    /// Takes a screenshot of a page into this file, with these arguments for the browser.
    pub fn shoot(&self, url: &str, to: &Path, words: &[&str]) {
        self.run(&[words, &[&format!("--screenshot={}", to.display()), url]].concat());
    }

    fn run(&self, words: &[&str]) -> String {
        let profile = tempfile::tempdir_in(self.dir.path()).unwrap();
        let output = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--virtual-time-budget=2000", "--run-all-compositor-stages-before-draw"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "chromium {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The first pixel of a PNG with 8 bits per channel.
fn corner(path: &Path) -> [u8; 3] {
    use std::io::Read;
    let bytes = fs::read(path).unwrap();
    let (mut at, mut data) = (8, Vec::new());
    while at + 8 <= bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if &bytes[at + 4..at + 8] == b"IDAT" {
            data.extend_from_slice(&bytes[at + 8..at + 8 + length]);
        }
        at += length + 12;
    }
    // The first byte of a line names its filter, which does not change the first pixel; then red, green and blue.
    let mut line = [0; 4];
    flate2::read::ZlibDecoder::new(&data[..]).read_exact(&mut line).unwrap();
    [line[1], line[2], line[3]]
}
