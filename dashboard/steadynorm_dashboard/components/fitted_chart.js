// What of a figure is shortened or placed elsewhere where it is narrow. Comes before live_chart.js.

const NARROW_PX = 620;
const SYMBOL_PX = 36; // of the legend, with the room around it and its name
const LETTER_PX = 6.2;
const ROW_PX = 19;

const NAMES_PX = 115; // of the names beside a narrow map
const NAME_END = 8;
const NARROW_LEFT_PX = 50;

/** The first and last letters of a parameter's name. */
function abbreviated(name) {
  const short = name.replace(/\.weight$/, "");
  return short.length > 2 * NAME_END + 1 ? `${short.slice(0, NAME_END)}…${short.slice(-NAME_END)}` : short;
}

/** In a narrow map: short names, and a color bar without its title. */
function shortened({ data, layout }) {
  layout.margin.l = NAMES_PX;
  layout.yaxis.ticktext = layout.meta.names.map(abbreviated);
  for (const { colorbar } of data) if (colorbar) delete colorbar.title;
}

/** Widths of what the legend shows. */
function legendWidths(data) {
  const shown = data.filter(({ name, showlegend, x }) => name && showlegend !== false && x?.length);
  return shown.map(({ name }) => SYMBOL_PX + LETTER_PX * name.length);
}

const total = (widths) => widths.reduce((sum, width) => sum + width, 0);
const withoutDetail = (title) => title.text.split(",")[0];
const widthOf = (text) => LETTER_PX * text.replace(/<[^>]*>/g, "").length;

/** Where a title and the legend do not fit beside one another: the title without what follows its first comma. Whether they do. */
function fitsBeside({ data, layout: { legend } }, titles, width) {
  const left = width - total(legendWidths(data));
  const beside = titles.filter((title) => title.y === legend.y);
  for (const title of beside) if (widthOf(title.text) > left) title.text = withoutDetail(title);
  return beside.every((title) => widthOf(title.text) <= left);
}

/** The legend in rows of its own below the x axis. */
function legendBelow({ data, layout: { legend, margin } }, width) {
  const widths = legendWidths(data);
  const room = width - margin.l - margin.r;
  const rows = total(widths) <= room ? 1 : Math.ceil(widths.length / Math.max(1, Math.floor(room / Math.max(...widths))));
  Object.assign(legend, { x: 0, xanchor: "left", y: 0, yanchor: "bottom", yref: "container" });
  margin.b += 13 + ROW_PX * rows;
}

/** In a narrow chart, titles without what follows their first comma; the legend below where it does not fit beside its title. */
function fitted(figure, width) {
  const { annotations = [], legend, margin } = figure.layout;
  const titles = annotations.filter((one) => one.xref === "paper");
  if (width >= NARROW_PX) {
    if (legend?.x === 1 && !fitsBeside(figure, titles, width)) legendBelow(figure, width);
    return figure;
  }
  if (figure.layout.meta?.names) {
    shortened(figure);
  } else if (margin.l > NARROW_LEFT_PX) {
    margin.l = NARROW_LEFT_PX; // the map below has names on a line of its own width
    for (const title of titles) title.xshift = 2 - NARROW_LEFT_PX;
  }
  for (const title of titles) title.text = withoutDetail(title);
  if (legend?.x === 1) legendBelow(figure, width);
  return figure;
}
