"""Models from afar: what a repository holds, and bringing it here whole. Knows no command."""
