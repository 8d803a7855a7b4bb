"""The methods of `recover`.

`table` lists them and `protocol` defines what a method is. Every other file holds a method, or a part that several
methods share.
"""
