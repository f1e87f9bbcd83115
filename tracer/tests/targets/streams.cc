// Uses a large part of libstdc++, the same way each time.
#include <iostream>
#include <locale>
#include <map>
#include <sstream>
#include <string>

int main() {
    std::map<std::string, int> words;
    std::ostringstream text;
    for (int i = 0; i < 1000; i++) text << "word" << i % 37 << ' ' << i * 0.5 << '\n';
    std::istringstream lines(text.str());
    std::string word;
    double number;
    while (lines >> word >> number) words[word] += static_cast<int>(number);
    for (const auto &[name, sum] : words) std::cerr << name << '=' << sum << std::endl;
    return words.size() == 37 ? 0 : 1;
}
