#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes files with odd names in the current directory: a line break, quotes, no UTF-8, blanks, the longest one, a dash.
echo 1 >"$(printf 'two\nlines')"
echo 2 >"it's \"quoted\" \\ \$HOME *"
echo 3 >"$(printf 'latin-\344\366\374-\377')"
echo 4 >' blanks '
echo 5 >"$(printf %0255d 0)"
echo 6 >-r
mkdir "$(printf 'deep\001')"
ln -s "$(printf 'nowhere\n\351')" "$(printf 'deep\001')/link"
