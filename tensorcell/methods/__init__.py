"""The methods of `recover`: `table` lists them, `protocol` says what a method is, each other file is one or a part."""
