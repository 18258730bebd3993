"use strict";

// A section from the server is merged element by element: an unchanged element stays, and with it the focus,
// the selection, what is unfolded and the scroll position.
(() => {
  const live = document.getElementById("live");
  const say = (text) => {
    if (live.textContent !== text) live.textContent = text;
  };

  const isSame = (old, fresh) =>
    old.nodeName === fresh.nodeName && (old.dataset || {}).key === (fresh.dataset || {}).key;

  function become(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    children(old, fresh);
  }

  function children(old, fresh) {
    let next = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      let found = next;
      while (found && !isSame(found, wanted)) found = found.nextSibling;
      if (found && found !== next && !(wanted.dataset && wanted.dataset.key)) found = null;
      if (!found) {
        old.insertBefore(wanted, next);
        continue;
      }
      while (next !== found) {
        const gone = next;
        next = next.nextSibling;
        gone.remove();
      }
      next = found.nextSibling;
      become(found, wanted);
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  let source = null;
  let waiting = 0;

  function open() {
    close();
    source = new EventSource("status/events");
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("section", (event) => {
      const { name, html } = JSON.parse(event.data);
      const fresh = document.createElement("template");
      fresh.innerHTML = html;
      children(document.getElementById(name), fresh.content);
    });
    source.addEventListener("error", () => {
      say("Not live: trying again");
      if (source.readyState === EventSource.CLOSED) waiting = setTimeout(open, 5000);
    });
  }

  function close() {
    clearTimeout(waiting);
    if (source) source.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
})();
