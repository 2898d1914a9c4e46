"""Problems, f(theta) = (1/N) sum_i l_i(theta), from functions and from nets."""
