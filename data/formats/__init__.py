"""Other trainers' row formats, one file each, and conversion between them."""
