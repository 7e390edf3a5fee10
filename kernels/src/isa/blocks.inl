// Walks rows and panels of one product in register-sized blocks. A `Body` names the block function
// body<M, P>: one or two rows stream several panels at once, more rows share each panel line.

namespace {

using Block = void (*)(const GemmArgs&, int row, int panel);

// Rows left, cut into nearly equal chunks of at most `most`.
int next_rows(int left, int most) {
  const int chunks = (left + most - 1) / most;
  return (left + chunks - 1) / chunks;
}

template <class Body>
struct Blocks {
  static constexpr Block wide[3] = {nullptr, Body::template run<1, 4>,
                                    Body::template run<2, kPanelsTwoRows>};
  static constexpr Block narrow[7] = {nullptr,
                                      Body::template run<1, kPanels>,
                                      Body::template run<2, kPanels>,
                                      Body::template run<3, kPanels>,
                                      Body::template run<4, kPanels>,
                                      Body::template run<Body::kRows < 5 ? 4 : 5, kPanels>,
                                      Body::template run<Body::kRows < 6 ? 4 : 6, kPanels>};
};

template <class Body>
void walk(const GemmArgs& g) {
  if (g.m <= 2) {
    const int step = g.m == 1 ? 4 : kPanelsTwoRows;
    for (int p = 0; p < g.panels; p += step) Blocks<Body>::wide[g.m](g, 0, p);
    return;
  }
  for (int p = 0; p < g.panels; p += kPanels)
    for (int row = 0, rows; row < g.m; row += rows) {
      rows = next_rows(g.m - row, Body::kRows);
      Blocks<Body>::narrow[rows](g, row, p);
    }
}

}  // namespace
