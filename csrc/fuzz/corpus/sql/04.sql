SELECT "b", [a], `c` FROM main.t -- c
 /* d */ ;