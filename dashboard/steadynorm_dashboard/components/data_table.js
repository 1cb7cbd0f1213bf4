// Draws an HTML table and updates it in place, so that the focus stays where it is. See data_table.py.
//
// Cells are untrusted: they become text nodes and attributes, never HTML.

const LONG = 44; // letters in a cell that may be broken into lines

class Table {
  constructor(host) {
    this.host = host;
    this.rows = new Map(); // by key: the tr
    this.sheet = element("div", "sheet", host);
    this.table = element("table", "", this.sheet);
    this.head = element("tr", "", element("thead", "", this.table));
    this.body = element("tbody", "", this.table);
    this.table.addEventListener("click", (event) => this.click(event));
    this.table.addEventListener("keydown", (event) => this.key(event));
    host.addEventListener("pointerleave", () => this.arrange());
  }

  draw({ name, columns, body, linked, sort }, report) {
    this.report = report;
    this.table.setAttribute("aria-label", name);
    // A table that scrolls is reached by its links; one without links, by itself.
    if (linked !== null) this.sheet.removeAttribute("tabindex");
    else this.sheet.tabIndex = 0;
    this.heads(columns, sort);
    const keys = new Set(body.map((row) => row.key));
    for (const [key, tr] of this.rows) {
      if (!keys.has(key)) {
        tr.remove();
        this.rows.delete(key);
      }
    }
    for (const row of body) {
      if (!this.rows.has(row.key)) this.rows.set(row.key, this.make(columns, linked));
      this.fill(this.rows.get(row.key), row, columns);
    }
    const resorted = this.sort !== JSON.stringify(sort);
    this.sort = JSON.stringify(sort);
    this.order = body.map((row) => row.key);
    this.arrange(resorted);
  }

  arrange(now = false) {
    arrange(this, now, (key) => this.rows.get(key));
  }

  heads(columns, sort) {
    const titles = JSON.stringify(columns.map(({ title }) => title));
    if (this.titles !== titles) {
      this.titles = titles;
      this.head.replaceChildren();
      this.body.replaceChildren();
      this.rows.clear();
      for (const { help, number, sortable } of columns) {
        const cell = element("th", number ? "number" : "", this.head);
        cell.scope = "col";
        if (help) cell.title = help;
        if (sortable) element("button", "", cell).type = "button";
      }
    }
    columns.forEach(({ title, number, sortable }, at) => {
      const cell = this.head.children[at];
      const label = cell.querySelector("button") ?? cell;
      const [by, descending] = sort ?? [];
      write(label, by === title ? `${title} ${descending ? "↓" : "↑"}` : title);
      if (by === title) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      // Numbers begin with the largest, words with the first letter; a second click turns it round.
      if (sortable) label.onclick = () => this.report("sorted", [title, by === title ? !descending : number]);
    });
  }

  make(columns, linked) {
    const tr = document.createElement("tr");
    columns.forEach(({ number }, at) => {
      const cell = element(at ? "td" : "th", number ? "number" : "", tr);
      if (!at) cell.scope = "row";
      if (at === linked) element("a", "", cell);
    });
    return tr;
  }

  fill(tr, { key, cells }, columns) {
    cells.forEach((text, at) => {
      const cell = tr.children[at];
      const anchor = cell.querySelector("a");
      write(anchor ?? cell, text);
      cell.classList.toggle("long", text.length > LONG);
      cell.classList.toggle("number", columns[at].number);
      if (anchor && !text) anchor.removeAttribute("href");
      else if (anchor && anchor.getAttribute("href") !== `?${key}`) anchor.setAttribute("href", `?${key}`);
    });
  }

  click(event) {
    const link = opened(event, "a[href]");
    if (link) this.report("opened", Object.fromEntries(new URLSearchParams(link.search)));
  }

  key(event) {
    const links = [...this.body.querySelectorAll("a[href]")];
    move(event, links, links.indexOf(document.activeElement));
  }
}

export default function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-table");
  host.steadynormTable ??= new Table(host);
  host.steadynormTable.draw(data, setTriggerValue);
}
