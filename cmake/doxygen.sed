# What Doxygen reads in place of a header: without the inline namespace's name, which is a macro, and
# with a word on members that are there because a concept or a convention asks for them.
s~::inline ATTN_ABI~~
s~^  friend detail::.*~~
s~^( +).*\b(bool visible\(|coverage cover\(|bias\(position|void check\(const call_shape|bool positional = |bool conjunction = ).*~\1/** Asked for by attn::Mask or attn::ScoreMod. */&~
s~^( +).*\b(S operator\(\)\(S s|S derivative\(S\b|index parameters\(\) const|add_parameter_gradient\().*~\1/** Asked for by attn::ScoreMod, or by its gradients. */&~
s~^( +).*\b(void operator\(\)\(index n, task each\)).*~\1/** Runs each(0) to each(n - 1), as attn::executor asks. */&~
s~^( +).*(\boperator=\(|\(const heads_array& other|\(heads_array&& other| swap\().*~\1/** As for any value. */&~
s~^( +)(using value_type = ).*~\1/** The type of the numbers. */&~
s~^inline constexpr bool positional_(mask|score_mod)<.*~/** Where it says so itself. */&~
s~^(boolean_mask|additive_mask)\(Held\)|^paged_view\(const K&~/** Of what it is made of. */&~
s~^  \[\[nodiscard\]\] heads_view<const T> (keys|values)\(\) const \{$~  /** The same, to read. */&~
# The README: a word with a tilde before it would be a destructor, and quotes end an image's text.
s/& ~attn::documents/\& ~ attn::documents/
s/^!\[.*\]\(\.github\/(.*)\)$/![](\1)/
# Formulas as Markdown has them.
s/\$`([^`]*)`\$/\\f$\1\\f$/g
