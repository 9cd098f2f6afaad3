"""One file a kind of source: BEIR folders, pairs, MTEB tasks, hub data sets, the demo."""
