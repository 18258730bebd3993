"""Find text on our cards that is too faint to read, with a script for the page that shows them."""

from __future__ import annotations

# WCAG 2.2, 1.4.3: text of normal size.
_CONTRAST = 4.5
#: Returns the faint texts, each with its contrast ratio against its background.
FAINT = """() => {
  const channels = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number)
  const light = text => channels(text).map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0)
  const found = []
  for (const card of document.querySelectorAll('.gdaltools')) {
    const ground = light(getComputedStyle(card).backgroundColor)
    for (const each of card.querySelectorAll('b, small, th, td, summary, pre, span:not(.gdaltools-bar)')) {
      const text = light(getComputedStyle(each).color)
      const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)
      if (each.textContent.trim() && ratio < LEAST) found.push([each.textContent.slice(0, 40), ratio])
    }
  }
  return found
}""".replace("LEAST", str(_CONTRAST))
