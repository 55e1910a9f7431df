"""Weight forms of less than 32 bits: their formulas and layouts, in numpy."""
