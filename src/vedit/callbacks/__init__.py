"""What watches a training or an evaluation; each is named by `class_path` under `trainer`."""
