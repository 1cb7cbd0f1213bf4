// Draws the runs table and updates it in place. See fleet_table.py.
//
// Names, tags and reasons are untrusted: they become text nodes and attributes, never HTML.

const SVG = "http://www.w3.org/2000/svg";
const NUMBERS = new Set(["step", "speed", "target", "started", "ran", "seen", "loss", "norm"]);
const isNumber = (key) => NUMBERS.has(key) || key.startsWith("scalar");
const chosen = new Set(); // ids of the marked runs, until the page is reloaded
let unmarked = ""; // the outcome whose runs were unmarked
const HEADING = "\u0000"; // no run's id begins so: before the value of a group

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

  draw({ rows, badges, columns, sort, headings, buttons, refusal, done }, report) {
    this.report = report;
    if (done.id && done.id !== unmarked) for (const id of done.runs) chosen.delete(id);
    unmarked = done.id || unmarked;
    const keys = columns.map(([key, title]) => `${key} ${title}`).join("\n");
    if (this.keys !== keys) {
      // Other columns: all rows are made anew.
      this.head.replaceChildren();
      for (const { tr } of this.rows.values()) tr.remove();
      this.rows.clear();
    }
    this.keys = keys;
    this.heads(columns, sort);
    const grouping = Object.keys(headings).join("\n");
    const resorted = this.sort !== sort || this.grouping !== grouping;
    this.sort = sort;
    this.grouping = grouping;
    this.names = new Map(rows.map((row) => [row.id, row.name]));
    this.order = [];
    let group;
    for (const row of rows) {
      if (Object.hasOwn(headings, row.group) && row.group !== group) this.order.push(HEADING + row.group);
      group = row.group;
      this.order.push(row.id);
    }
    const ids = new Set(this.order);
    for (const [id, { tr }] of this.rows) {
      if (!ids.has(id)) {
        tr.remove();
        this.rows.delete(id);
        chosen.delete(id);
      }
    }
    for (const id of this.order.filter((each) => each.startsWith(HEADING))) {
      if (!this.rows.has(id)) this.rows.set(id, this.heading(columns));
      this.rows.get(id).update(headings[id.slice(1)]);
    }
    for (const row of rows) {
      if (!this.rows.has(row.id)) this.rows.set(row.id, this.make(row.id, columns));
      this.rows.get(row.id).update(row, badges);
    }
    this.arrange(resorted);
    this.actions(buttons, refusal);
    this.compare();
  }

  arrange(now = false) {
    arrange(this, now, (key) => this.rows.get(key).tr);
  }

  heads(columns, sort) {
    if (!this.head.childElementCount) {
      element("span", "hidden", element("th", "pick", this.head)).textContent = "Select";
      for (const [key, title, first] of columns) {
        const cell = element("th", isNumber(key) ? `${key} number` : key, this.head);
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

  heading(columns) {
    const tr = element("tr", "group");
    const cell = element("th", "", tr);
    cell.scope = "colgroup";
    cell.colSpan = columns.length + 1;
    return { tr, update: (text) => write(cell, text) };
  }

  make(id, columns) {
    const tr = element("tr");
    const box = element("input", "", element("td", "pick", tr));
    box.type = "checkbox";
    box.dataset.run = id;
    const parts = columns.map(([key]) => {
      const cell = element("td", isNumber(key) ? `${key} number` : key, tr);
      return (PARTS[key] ?? plain(key))(cell);
    });
    const update = (row, badges) => {
      box.checked = chosen.has(id);
      mark(box, "aria-label", `Select ${row.name}`);
      tr.classList.toggle("faded", row.faded);
      for (const part of parts) part(row, badges);
    };
    return { tr, update };
  }

  click(event) {
    const link = opened(event, "a[data-run]");
    if (link) this.report("opened", link.dataset.run);
  }

  key(event) {
    const links = [...this.body.querySelectorAll("a[data-run]")];
    move(event, links, links.indexOf(document.activeElement?.closest("tr")?.querySelector("a[data-run]")));
  }

  choose(box) {
    if (box.checked) chosen.add(box.dataset.run);
    else chosen.delete(box.dataset.run);
    this.compare();
  }

  /** Buttons of the bar for all marked runs. */
  actions(buttons, refusal) {
    this.prepare();
    const names = buttons.map(([name]) => name).join();
    if (this.acting !== names) {
      this.acting = names;
      this.asks.replaceChildren();
      for (const [name, label, single] of buttons) {
        const button = element("button", "plain", this.asks);
        button.type = "button";
        button.textContent = label;
        button.dataset.single = single ? "yes" : "";
        button.onclick = () => {
          const ids = this.marked();
          this.report("asked", { action: name, runs: Object.fromEntries(ids.map((id) => [id, this.names.get(id)])) });
        };
      }
    }
    this.refusal = refusal;
  }

  marked() {
    return [...chosen].filter((id) => this.names.has(id));
  }

  unmark() {
    chosen.clear();
    for (const box of this.body.querySelectorAll("input")) box.checked = false;
    this.compare();
  }

  prepare() {
    if (!this.bar.childElementCount) {
      this.button = element("button", "", this.bar);
      this.button.type = "button";
      this.button.textContent = "Compare";
      this.asks = element("span", "asks", this.bar);
      this.clear = element("button", "plain", this.bar);
      this.clear.type = "button";
      this.clear.textContent = "Clear selection";
      this.words = element("span", "", this.bar);
      this.words.setAttribute("role", "status");
      this.button.onclick = () => this.report("compared", this.marked());
      this.clear.onclick = () => this.unmark();
    }
  }

  compare() {
    const count = this.marked().length;
    this.bar.hidden = !count;
    this.button.disabled = count < 2;
    for (const button of this.asks.children) {
      button.disabled = Boolean(this.refusal) || (button.dataset.single && count !== 1);
      mark(button, "title", this.refusal || (button.dataset.single ? "One run at a time." : ""));
    }
    write(this.words, count === 1 ? "1 run selected: select another one to compare." : `${count} runs selected`);
  }
}

export default function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-fleet");
  host.steadynormTable ??= new Table(host);
  host.steadynormTable.draw(data, setTriggerValue);
}
