"""The views of `holdfast status`, one file each: `collect` asks the cells, `render` prints."""
