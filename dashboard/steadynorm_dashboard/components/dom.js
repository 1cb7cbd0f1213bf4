// What the scripts of tables share; it stands before each of them. See files.py.

function element(name, className, parent) {
  const made = document.createElement(name);
  if (className) made.className = className;
  parent?.append(made);
  return made;
}

/** Updates a node only if its text differs, so that unchanged nodes are not redrawn and keep the focus. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** The link that a click opens here. With a modifier key or another button the browser opens a new tab, as with any link. */
function opened(event, selector) {
  const link = event.target.closest(selector);
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return null;
  event.preventDefault();
  return link;
}

/** Arrows, j, k, Home and End move the focus among `links`, from the one at the index `at`. */
function move(event, links, at) {
  const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: links.length - 1 }[event.key];
  if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  links[Math.max(0, Math.min(links.length - 1, to))].focus();
}

/** Puts the rows of `table` in its order, but not while one is hovered or focused: it would move away from the hand. */
function arrange(table, now, row) {
  const { host, body } = table;
  const inUse = host.matches(":hover") || body.contains(document.activeElement);
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  let at = body.firstElementChild;
  for (const key of table.order ?? []) {
    const tr = row(key);
    if (tr === at) at = at.nextElementSibling;
    else if (now || !inUse || !tr.isConnected) body.insertBefore(tr, inUse && !now ? null : at);
  }
  focused?.focus({ preventScroll: true });
}

