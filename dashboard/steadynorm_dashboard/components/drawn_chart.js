// Whether a newer figure looks like the one that is drawn. Comes before live_chart.js.

const SEEN_PX = 0.5;

/** What is drawn of a figure, to be kept before plotly adds to it: the places of its lines, and all else as text. */
function drawing({ data, layout }) {
  const lines = data.map((trace) => (trace.type === "scatter" ? trace : null));
  const ends = Object.keys(layout).filter((name) => layout[name]?.autorangeoptions);
  const clips = ends.map((name) => ({ name, ...layout[name].autorangeoptions }));
  const rest = JSON.stringify([
    data.map((trace, at) => (lines[at] ? { ...trace, x: trace.x.length, y: trace.y.length } : trace)),
    { ...layout, ...Object.fromEntries(ends.map((name) => [name, { ...layout[name], autorangeoptions: null }])) },
  ]);
  return { lines, clips, rest };
}

/** Whether each place of `newer` is within half a pixel of where it is drawn, and all else is the same. */
function looksDrawn(host, drawn, newer) {
  const shown = host._fullLayout;
  if (!shown?.xaxis || drawn?.rest !== newer.rest) return false;
  const axis = (letter, id) => shown[`${letter}axis${(id ?? letter).slice(1)}`];
  const near = (along, before, now) => before === now || Math.abs(along.d2p(before) - along.d2p(now)) < SEEN_PX; // not so for a gap
  const stands = (letter) => (trace, at) => {
    const along = axis(letter, trace?.[`${letter}axis`]);
    return !trace || newer.lines[at][letter].every((value, index) => near(along, trace[letter][index], value));
  };
  const ended = ({ name, clipmin, clipmax }, at) =>
    near(shown[name], clipmin, newer.clips[at].clipmin) && near(shown[name], clipmax, newer.clips[at].clipmax);
  return drawn.lines.every(stands("x")) && drawn.lines.every(stands("y")) && drawn.clips.every(ended);
}
