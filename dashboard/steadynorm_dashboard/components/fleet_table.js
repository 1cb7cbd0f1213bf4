// Draws the runs table and updates it in place. See fleet_table.py.
//
// Names, tags and reasons are untrusted: they become text nodes and attributes, never HTML.

const SVG = "http://www.w3.org/2000/svg";
const NUMBERS = new Set(["step", "speed", "target", "seen", "loss", "norm"]);
const chosen = new Set(); // ids of the runs to compare, until the page is reloaded

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

const PARTS = {
  run(cell) {
    const link = element("a", "", cell);
    const tags = element("div", "tags", cell);
    return (row) => {
      mark(link, "href", `?run=${encodeURIComponent(row.id)}`);
      link.dataset.run = row.id;
      write(link, row.name);
      mark(link, "title", row.about);
      const words = row.more_tags ? [...row.tags, `+${row.more_tags}`] : row.tags;
      while (tags.childElementCount > words.length) tags.lastElementChild.remove();
      words.forEach((word, at) => write(tags.children[at] ?? element("span", "", tags), word));
    };
  },
  health: badge("health"),
  state: badge("state"),
  loss: line("loss"),
  norm: line("norm"),
  change(cell) {
    const what = element("div", "what", cell);
    const who = element("div", "who", cell);
    return ({ change }) => {
      write(what, change?.what ?? "–");
      write(who, change?.who ?? "");
      mark(cell, "title", change?.why ?? "Its settings have not been changed.");
    };
  },
};

function badge(name) {
  return (cell) => {
    const shown = element("span", "", cell);
    const icon = element("span", "icon", shown);
    icon.setAttribute("aria-hidden", "true");
    icon.translate = false;
    const word = element("span", "", shown);
    return (row, badges) => {
      const status = badges[row[name]];
      mark(shown, "class", `badge ${status.color}`);
      mark(shown, "title", status.help);
      write(icon, status.icon);
      write(word, row[name]);
    };
  };
}

function line(name) {
  return (cell) => {
    const box = element("div", "line", cell);
    const drawing = document.createElementNS(SVG, "svg");
    drawing.setAttribute("viewBox", "0 0 100 24");
    drawing.setAttribute("preserveAspectRatio", "none");
    drawing.setAttribute("role", "img");
    const band = drawing.appendChild(document.createElementNS(SVG, "path"));
    band.setAttribute("class", "band");
    const path = drawing.appendChild(document.createElementNS(SVG, "path"));
    box.append(drawing);
    const value = element("span", "", box);
    return (row) => {
      mark(band, "d", row[name].band);
      mark(path, "d", row[name].path);
      mark(drawing, "aria-label", row[name].words);
      mark(cell, "title", row[name].words);
      write(value, row[name].value);
    };
  };
}

function plain(name) {
  return (cell) => (row) => write(cell, row[name]);
}

class Table {
  constructor(host) {
    this.host = host;
    this.rows = new Map(); // by run id: {tr, update}
    this.table = element("table", "", element("div", "sheet", host));
    this.bar = element("div", "bar", host);
    this.head = element("tr", "", element("thead", "", this.table));
    this.body = element("tbody", "", this.table);
    this.table.addEventListener("click", (event) => this.click(event));
    host.addEventListener("keydown", (event) => this.key(event));
    host.addEventListener("pointerleave", () => this.arrange());
    this.table.addEventListener("change", (event) => this.choose(event.target));
  }

  draw({ rows, badges, columns, sort }, report) {
    this.report = report;
    this.heads(columns, sort);
    const resorted = this.sort !== sort;
    this.sort = sort;
    const ids = new Set(rows.map((row) => row.id));
    for (const [id, { tr }] of this.rows) {
      if (!ids.has(id)) {
        tr.remove();
        this.rows.delete(id);
        chosen.delete(id);
      }
    }
    for (const row of rows) {
      if (!this.rows.has(row.id)) this.rows.set(row.id, this.make(row.id, columns));
      this.rows.get(row.id).update(row, badges);
    }
    this.order = rows.map((row) => row.id);
    this.arrange(resorted);
    this.compare();
  }

  /** Sorts the rows, but not while one is hovered or focused: it would move away from the pointer. */
  arrange(now = false) {
    const order = this.order ?? [];
    const inUse = this.host.matches(":hover") || this.body.contains(document.activeElement);
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    let at = this.body.firstElementChild;
    for (const id of order) {
      const { tr } = this.rows.get(id);
      if (tr === at) at = at.nextElementSibling;
      else if (now || !inUse || !tr.isConnected) this.body.insertBefore(tr, inUse && !now ? null : at);
    }
    focused?.focus({ preventScroll: true });
  }

  heads(columns, sort) {
    if (!this.head.childElementCount) {
      element("th", "pick", this.head).setAttribute("aria-label", "Compare");
      for (const [key, title, first] of columns) {
        const cell = element("th", NUMBERS.has(key) ? `${key} number` : key, this.head);
        cell.scope = "col";
        const label = first ? element("button", "", cell) : cell;
        if (first) label.type = "button";
        label.dataset.title = title;
      }
    }
    columns.forEach(([, title, first, second], at) => {
      const cell = this.head.children[at + 1];
      const label = cell.firstElementChild ?? cell;
      const on = first && (sort === first || sort === second);
      write(label, on ? `${title} ${sort.startsWith("-") ? "↓" : "↑"}` : title);
      if (on) mark(cell, "aria-sort", sort.startsWith("-") ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      if (first) label.onclick = () => this.report("sorted", sort === first ? second : first);
    });
  }

  make(id, columns) {
    const tr = document.createElement("tr");
    const box = element("input", "", element("td", "pick", tr));
    box.type = "checkbox";
    box.dataset.run = id;
    const parts = columns.map(([key]) => {
      const cell = element("td", NUMBERS.has(key) ? `${key} number` : key, tr);
      return (PARTS[key] ?? plain(key))(cell);
    });
    const update = (row, badges) => {
      box.checked = chosen.has(id);
      mark(box, "aria-label", `Compare ${row.name}`);
      tr.classList.toggle("faded", row.faded);
      for (const part of parts) part(row, badges);
    };
    return { tr, update };
  }

  click(event) {
    const link = event.target.closest("a[data-run]");
    // With a modifier key or another button the browser opens a new tab, as with any link.
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.report("opened", link.dataset.run);
  }

  key(event) {
    const links = [...this.body.querySelectorAll("a[data-run]")];
    const at = links.indexOf(document.activeElement?.closest("tr")?.querySelector("a[data-run]"));
    const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    links[Math.max(0, Math.min(links.length - 1, to))].focus();
  }

  choose(box) {
    if (box.checked) chosen.add(box.dataset.run);
    else chosen.delete(box.dataset.run);
    this.compare();
  }

  compare() {
    const ids = [...chosen].filter((id) => this.rows.has(id));
    if (!this.bar.childElementCount) {
      this.button = element("button", "", this.bar);
      this.button.type = "button";
      this.button.textContent = "Compare";
      this.clear = element("button", "plain", this.bar);
      this.clear.type = "button";
      this.clear.textContent = "Clear selection";
      this.words = element("span", "", this.bar);
      this.words.setAttribute("role", "status");
    }
    this.bar.hidden = !ids.length;
    this.button.disabled = ids.length < 2;
    write(this.words, ids.length === 1 ? "1 run selected: select another one to compare." : `${ids.length} runs selected`);
    this.button.onclick = () => this.report("compared", ids);
    this.clear.onclick = () => {
      chosen.clear();
      for (const box of this.body.querySelectorAll("input")) box.checked = false;
      this.compare();
    };
  }
}

export default function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-fleet");
  host.steadynormTable ??= new Table(host);
  host.steadynormTable.draw(data, setTriggerValue);
}
