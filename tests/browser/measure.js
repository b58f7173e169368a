// Lays the page of each text area out in one frame per width, and prints what leaves its box and which words are broken.
// A box is a card, a row, the headline, or the window. A word is a run of letters and digits; one in a token so long that
// no line may have room for it (a path, a hostile name) may break.
const BOX = '.card, .headline, .troubles > li, .rows > li, .guests tr, body';
const LONGEST = 24;

function outside(page) {
  const all = [...page.querySelectorAll('body *')].filter(e => !e.closest('.unseen, thead, svg *'));
  const leaves = e => {
    const inner = e.getBoundingClientRect(), outer = e.parentElement.closest(BOX).getBoundingClientRect();
    return inner.width > 0 && (inner.right > outer.right + 0.5 || inner.left < outer.left - 0.5);
  };
  return all.filter(leaves).map(e => `${e.localName}.${e.className} ${e.textContent.slice(0, 40)}`);
}

function broken(page) {
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT), range = page.createRange(), found = [];
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (text.parentElement.closest('.unseen, svg, style')) continue;
    for (const token of text.data.matchAll(/\S+/g)) {
      if (token[0].length > LONGEST) continue;
      for (const word of token[0].matchAll(/[\p{L}\p{N}]+/gu)) {
        const at = token.index + word.index;
        range.setStart(text, at);
        range.setEnd(text, at + word[0].length);
        if (new Set([...range.getClientRects()].map(line => Math.round(line.top))).size > 1) found.push(word[0]);
      }
    }
  }
  return found;
}

const pages = [...document.querySelectorAll('textarea')].map(text => text.value);
for (const [page, html] of pages.entries()) for (const width of widths) {
  const frame = document.createElement('iframe');
  frame.width = width;
  frame.height = 800;
  frame.style.border = 0;
  frame.onload = () => {
    const inside = frame.contentDocument, root = inside.documentElement;
    const seen = [page, width, root.scrollWidth, root.scrollHeight, outside(inside).join('\x1f'), broken(inside).join('\x1f')];
    document.getElementById('seen').textContent += seen.join('\x1e') + '\x1d';
  };
  frame.srcdoc = html;
  document.body.append(frame);
}
